"""The write path: commands are gathered into batches, and each batch is one database transaction."""
