"""What rots on a disk, and what is left of a store then.

stores     `Specimen`: a store of one of five histories, and every state that it was in
anatomy    the files of a store, taken apart into the kinds of places that can rot
pages      the same for LMDB's data file: which page is what
damage     one thing done to a store's files, planned from a seed
children   a forked child that says what it finds while it goes, and may die
looking    what such a child does: check, open, read, write, open again
verdict    what of that is detected, harmless, unseen, or a broken promise
table      how often each was, by kind of file and of damage
"""
