"""Goes on proving the books: what changed every few seconds, everything else in the background; begin at auditor.py."""
