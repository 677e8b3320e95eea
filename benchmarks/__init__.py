"""How fast strandline is, beside its peers and by itself. See README.md."""
