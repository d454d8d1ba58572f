"""The commands that are not processes, in a file for each subject. Every file here is imported."""
