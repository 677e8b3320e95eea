"""The interleavings that lose data in engines like this one, each with the guard against it."""
