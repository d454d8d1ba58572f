"""The commands that work on the database itself."""
