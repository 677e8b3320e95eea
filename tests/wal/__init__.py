"""Tests of strandline.wal."""
