"""The state of a store at an LSN, from LMDB and the log: for `export`.

cut         up to where a state is wanted, and whether it can be had
overlay     what the log changes, in key order, on disk where it is much
merged      LMDB's rows with that laid over them
outlets     what it becomes: lines, a file, a store
"""
