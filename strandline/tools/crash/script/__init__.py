"""What writers do to a store, from a seed, and what it does to a model of the store.

model    `Model`: every table as a dict, and the LSN
steps    one class a verb: `do` on the store, `apply` on the model, the same answer
single   the script of a writer that is alone: every verb of the store
many     the scripts of several: writes to shared keys, counters, reads
told     what a writer says when a step is done, over a pipe, a file or a list
settings options of a store from a seed, every one of them small
"""
