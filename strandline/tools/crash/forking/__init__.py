"""A fork server: processes for one case each, cheap, and safe to kill.

    bench ──one byte──► server ──fork──► child: one work, which opens a store
      ▲                    │               │
      │◄────process id─────┘               │
      │◄────────pipe: what it says─────────┤
      │◄────────pipe: its mark─────────────┘
      └──SIGKILL──────────────────────────►

    server   the process that has imported everything and opened nothing; what a child does
    client   `ForkServer`, the bench's side of it: run a work, kill it, say how it ended

A server is forked from the bench, and then has all that was changed in it; or it is started
anew with the shim under it, and then changes itself first by its `prelude`. LMDB is opened
in children only. No child outlives its server, no server its bench.
"""
