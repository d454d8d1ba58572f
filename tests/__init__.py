"""The tests, by what they need: from `unit` (nothing) to `acceptance` (everything)."""
