"""The crash-injection harness: each layer, what it is made of, and what it must catch."""
