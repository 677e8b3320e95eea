"""The tests of strandline."""
