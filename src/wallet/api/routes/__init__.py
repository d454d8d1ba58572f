"""The handlers, one file for each subject."""
