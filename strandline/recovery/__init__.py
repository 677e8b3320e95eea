"""The way back: opening a store, and mending or copying one.

This layer owns what happens before the first operation and beside the running store: it
scans the log, tells a torn tail from damage, replays what the backing store lacks and
hands over an open store; it also does repair, backup and restore. It deletes nothing
that it could not read: that goes to `quarantine/`, and the report says so.
"""
