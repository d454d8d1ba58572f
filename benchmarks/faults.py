"""What makes a figure worthless."""


class Fault(Exception):
    """A run that must not count: the message says why."""
