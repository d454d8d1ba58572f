"""The commands that are not processes: one file for each. A new file here is a new command."""
