"""The store at work: index, tables, transactions, snapshots and checkpoints.

This layer owns what operations mean: how they are encoded in the log's payloads, which
value a reader sees and when, and how the coalesced state reaches the backing store. It
writes through `strandline.wal` and never decides what a damaged log still holds: a store
is handed to it opened and replayed.
"""
