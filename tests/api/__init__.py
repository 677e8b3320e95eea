"""Tests of the public interface, as a program uses it."""
