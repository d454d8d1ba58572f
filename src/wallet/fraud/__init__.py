"""The fraud engine and its rules."""
