"""The write path: commands gathered into batches, each one database transaction."""
