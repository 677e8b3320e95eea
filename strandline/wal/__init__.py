"""The log: files, segments, frames, LSNs and group commit.

This layer owns every byte in `log/`, IDENTITY and LOCK, and the protocols through which
it reaches the disk and its surroundings. It takes payloads, makes them durable in order
and reads them back; it knows nothing of keys and tables, and imports no layer above it.
"""
