"""`wal-inspect`: see, prove, repair and explain a log, offline or beside its writer.

    main        the console script
    app         which commands there are
    target      what PATH names: a store, the folder of its log, one segment
    examine     the whole log, scanned and judged: verdict and exit status
    regions     what lies where in a segment, from its first byte to its last
    frames      frames and operations in order, names of tables
    selection   the filters of `dump` and `follow`
    fields      keys and values as text and as JSON
    times       times and sizes
    ls, dump, verify, stats, history, frame, follow, diff, export, repair, report

Reads through the log's one reader. Writes to nothing that it inspects; `repair --in-place`
alone changes a store, and then as an opening of it would. docs/wal-inspect.md is the
reference.
"""
