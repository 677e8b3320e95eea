"""Tests of strandline.native."""
