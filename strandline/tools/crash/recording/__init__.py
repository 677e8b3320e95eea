"""Recordings of a real store, and what a power cut anywhere in them leaves.

chapter   one life of a store: what it writes, from a seed, and where its recording lies
works     the children: one writes under the shim, one judges images
opening   opening a store in a child
images    the images that are taken of a recording
"""
