"""The version of the service, defined here and nowhere else: the package's metadata is built from this file."""

from typing import Final

VERSION: Final = "0.2.0"


def version() -> str:
    """Returns the version of the service."""
    return VERSION
