"""Gives committed batches their place in the journal and publishes their events."""
