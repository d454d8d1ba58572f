"""The handlers, one file per subject."""
