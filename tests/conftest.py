"""What every test shares: the Hypothesis profiles.

STRANDLINE_HYPOTHESIS chooses one: `dev` (the default), `ci` (the default where CI is set;
the same examples in every run) or `soak` (many examples, for a run overnight).
"""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# No deadlines: a single fdatasync on a busy disk takes longer than any useful one.
settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=100,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "soak",
    deadline=None,
    max_examples=5000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(
    os.environ.get("STRANDLINE_HYPOTHESIS", "ci" if os.environ.get("CI") else "dev")
)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what it runs in the background, and children inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
