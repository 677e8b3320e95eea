"""What a repair comes to, and what is kept of the original: for `repair`.

plan        kept, given up, put aside
originals   copies of a store's files, durable
words       what is said of it
"""
