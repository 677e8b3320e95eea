"""Coverage-guided fuzzing of what reads bytes from a disk; see README.md."""
