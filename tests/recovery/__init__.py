"""Tests of strandline.recovery."""
