"""The version of this distribution: its only definition, which the packaging and the OpenAPI document read."""

__version__ = "0.2.0"


def version() -> str:
    """Returns the version, such as 0.2.0."""
    return __version__
