"""Killing the writer of a store, or its disk, again and again: what the children do, and when.

phases   what a store is in the middle of, noted on a board that outlives the process
blow     when it is killed: a moment in a phase, or a storage call of one
case     what a child has to do, and its scripts
works    the children: one writes, one recovers, one judges
children the bench's side of them: how their ends are read, how a judge is asked
"""
