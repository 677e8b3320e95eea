"""Real file systems whose power can be cut. Linux, root, loop devices; no device-mapper.

    filesystem   LoopFilesystem: cut by the kernel's own shutdown (ext4, xfs)
    blocklog     BlockLog: everything a file system writes, in order (ext4, xfs, btrfs)
    recording    Recording: file systems as a cut at any moment of it could have left them
    survivors    what of the pending writes survives a cut
    obstacle     why a machine cannot do it

    shutdown     FS_IOC_SHUTDOWN            image      unnamed images, made and mounted
    daemon       the device behind BlockLog workspace  private mounts, nothing left behind
    kinds        the file systems           kernel     system calls without a name in Python

The two ways differ. The shutdown is fast, and loses what the kernel had not yet written by
itself. The block log asks for every loss and every tear that the rules of a disk cache
allow, from one run of a writer.

A worker is a process of its own, forked before any of them mounts, and works in its main
thread: namespaces belong to threads.
"""
