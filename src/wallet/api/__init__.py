"""The HTTP edge: turns requests into frozen commands, and outcomes into answers."""
