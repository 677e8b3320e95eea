"""A world that follows from a seed: a disk, its faults, a clock, threads, a store on them.

media      what a disk is made of; which of its unsynced events survive a crash
disk       `SimulatedDisk`, the log's files in memory
faults     operations as a trace, and hooks that make them fail
rig        a store on such a disk, and its images after crashes
"""
