"""Arrays of numbers and short texts as PostgreSQL spells them, for parameters of the form `$1::text::bigint[]`.

The driver takes a list apart element by element, at a third of a microsecond each, and a deposit has sixty of them;
here they are joined in one go, and taken apart by the server, for less. Ids (UUID), times, JSON and bytes stay lists:
to spell those costs the server more than it saves (docs/performance.md).
"""

from collections.abc import Sequence
from typing import Final

_SEPARATOR: Final = "\x01"
"""Hardly ever in a text; where it is, the texts are spelled one by one."""


def array_of(values: Sequence[object]) -> str:
    """An array of numbers or booleans; None is null."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def array_of_texts(values: Sequence[str]) -> str:
    """An array of texts."""
    if not values:
        return "{}"
    joined = _SEPARATOR.join(values)
    if joined.count(_SEPARATOR) != len(values) - 1:
        return "{" + ",".join(map(_quoted, values)) + "}"
    return '{"' + _escaped(joined).replace(_SEPARATOR, '","') + '"}'


def array_of_texts_or_nulls(values: Sequence[str | None]) -> str:
    """An array of texts; None is null."""
    return "{" + ",".join(["NULL" if value is None else _quoted(value) for value in values]) + "}"


def _quoted(value: str) -> str:
    return f'"{_escaped(value)}"'


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
