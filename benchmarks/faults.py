"""The error that invalidates a measurement."""


class Fault(Exception):
    """A run is invalid; the message contains the reason."""
