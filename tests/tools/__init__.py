"""Tests of what stands on top of the store."""
