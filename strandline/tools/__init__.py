"""Programs around the store: the `strandline` command, log inspection, the crash harness.

This layer owns what a person reads and types. It stands on the layers below and none of
them imports it; what it needs beyond the core dependencies comes with the extra `cli`.
"""
