"""The version of this program, defined only here."""

from typing import Final

VERSION: Final = "0.2.0"


def version() -> str:
    """Returns the version, such as 0.2.0."""
    return VERSION
