"""The crash-injection harness: it breaks a store in every way that promises name, and judges.

    command      `strandline crash-test`
    layer        what a layer is; what a round of one comes to
    registry     the layers there are, in order
    runner       rounds side by side until a budget is spent
    shrink       the fewest steps that still fail
    report       the table at the end, and its JSON
    script       what writers do, from a seed
    oracle       what must hold of a store after a crash
    simulation/  a disk, clock, threads and LMDB that follow from a seed
    forking/     a fork server: a process for each case
    killing/     children that write until they are killed, and when that is
    shim/        real calls recorded, failed, or killed at
    blocks/      real file systems whose power can be cut
    layers/      one module a layer

A layer runs *rounds*. A round follows from its seed: options of a store, a script for its
writers, faults. Every crash image, every failed call, every kill in it is a *case*, judged
by the oracle. A round that finds a violation is run again with fewer and fewer steps, and
what is reported is a command that repeats it.
"""
