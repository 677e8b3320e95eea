"""The `strandline` command: one module a verb, named by it, and what the verbs share.

    main       the console script: looks whether the extra `cli` is installed
    app        which verbs there are
    verbs      verbs are loaded when they are called; errors become one line and a status
    get, put, delete, scan, load, dump, stats, check, tables
    params     options and arguments that several verbs have
    stores     opening a store, never making one by mistake
    forms      keys and values as text, hex or base64, by a table's codec
    plain      keys and values as JSON, and back
    dumps      the lines of a dump
    sources    a file to load from: decompressed, line by line
    rows       CSV rows and JSON objects as keys and values
    terminal   what is printed, made harmless; progress bars

Everything that is read from a store goes through `terminal` or is JSON in ASCII: nothing
in a key or a value can act on a terminal. docs/command.md is the reference.
"""
