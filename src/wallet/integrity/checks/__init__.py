"""One module per invariant."""
