"""Calls of a real store that are made to fail.

case      one fault and one script
works     the children: one writes and meets the fault, one judges what is left
witness   what a recording says of promises that were broken after a failed sync
"""
