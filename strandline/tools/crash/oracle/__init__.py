"""The oracle: what must hold of a store after a crash, given what its writers were told.

    crash    which acknowledgements a crash respects
    history  several writers: what was told, in the order of the LSNs; what readers were shown
    single   a writer that was alone: the store is a prefix of its script
    many     several writers: the order follows from the LSNs that they were told
    reading  everything that a store holds, read in more than one way
    after    a recovered store takes writes, issues new LSNs, and recovers to the same again

Nothing here asks the store what it thinks that it lost: states are compared whole.
"""
