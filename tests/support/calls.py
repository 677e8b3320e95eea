"""`Call`: a call on a thread of its own, whose answer or exception is asked for later."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Call:
    """Starts at once. `answer` gives what it returned, or raises what it raised."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._outcome: Any = None
        self._error: BaseException | None = None

        def run() -> None:
            try:
                self._outcome = function(*args, **kwargs)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it has come back."""
        return not self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Give it some time."""
        self._thread.join(seconds)

    def answer(self) -> Any:
        """Wait for it; a call that hangs fails the test."""
        self._thread.join(30)
        assert self.done, "the call did not come back within 30 s"
        if self._error is not None:
            raise self._error
        return self._outcome
