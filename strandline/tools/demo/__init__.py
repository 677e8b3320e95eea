"""`strandline demo`: the store's promises on real data, with two crashes in the middle.

    source     the flights, as lines in order
    workload   what each flight writes, and a model of the state after any number of writes
    messages   what the writing process tells the one that watches it
    child      the process that writes, and is killed
    watch      starting it, listening to it, killing it
    proof      comparing what was recovered with the model
    totals     the same figures computed plainly, for the comparison at the end
    run        the whole of it, in order
    display    what the terminal shows
    chart, page   the page with the charts
    command    the arguments

It uses the public surface of strandline and nothing below it.
"""
