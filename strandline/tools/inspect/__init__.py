"""`wal-inspect`: see, prove, repair and explain a log, offline or beside its writer.

    main        the console script
    app         which commands there are
    ls, dump, verify, stats, history, frame, follow, diff, export, repair, report

    target      what PATH names: a store, the folder of its log, one segment
    examine     the whole log, scanned and judged: verdict and exit status
    summary     the line that says how a log is; what every JSON document begins with
    frames      frames and operations in order, names of tables
    regions     what lies where in a segment, from its first byte to its last
    selection   the filters of `dump` and `follow`
    lines       operations as lines: for a person, as JSON, as CSV
    fields      keys and values as text and as JSON
    times       times and sizes
    params      arguments and options that several commands have

    anatomy     (frame) the fields of a frame or a segment header
    independent (verify) every CRC by a second library
    versions    (history) what the log holds of one key
    comparing   (diff) two logs held against each other
    stats_text  (stats) the page of figures
    analysis/   (stats, report) what a log is made of
    following/  (follow) a log that grows
    state/      (export) the state at an LSN
    mending/    (repair) what a repair comes to
    page/       (report) the HTML page

Reads through the log's one reader. Writes to nothing that it inspects; `repair --in-place`
alone changes a store, and then as an opening of it would. docs/wal-inspect.md is the
reference.
"""
