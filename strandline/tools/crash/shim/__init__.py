"""The preload shim: under a real process it records, fails and kills at storage calls.

    build.py     compiles the C files beside it, once for each of their versions
    control.py   environment of a process; arming, planning and counting from within it
    record.py    the record file: its format, and its reader
    replay.py    what a power cut at any point of a recording leaves

One `exec` with the shim under it is enough for any number of cases: a child that is forked
arms the shim for itself.

    library = build.library(cache)
    server = subprocess.Popen([...], env=control.environment(library))
        # ... in a child that the server forked:
        control.arm(root, record=path, marks=acknowledgements.fileno())
        control.plan(Plan(Action.KILL_BEFORE, nth=17))

Seen are the calls that go through libc's own names, as those of CPython and LMDB do. Not
seen: a program without libc or linked statically, and a mapping that is made writable
after it was made. Permissions, times and extended attributes are not looked at.
"""
