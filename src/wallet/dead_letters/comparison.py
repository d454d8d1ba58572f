"""What a message says, compared with what the event log says: field by field, as the text of each value.

The message may be anything, so nothing is decoded into a type of ours; numbers keep the digits they were sent with.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

ABSENT: Final = "(absent)"


class NotComparable(ValueError):
    """The body is not a JSON object."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A field, by its path, in which message and log differ; the values as JSON, or ABSENT."""

    path: str
    in_message: str
    in_log: str


def differences(message: bytes, logged: bytes) -> list[Difference]:
    """The fields that differ, those of the log first, in its order. Raises NotComparable."""
    in_message, in_log = _fields(message), _fields(logged)
    return [
        Difference(path, in_message.get(path, ABSENT), in_log.get(path, ABSENT))
        for path in {**in_log, **in_message}
        if in_message.get(path) != in_log.get(path)
    ]


def _fields(body: bytes) -> dict[str, str]:
    try:
        # Numbers stay text: those of a message may have more digits than Python converts.
        parsed = json.loads(body, parse_float=_Number, parse_int=_Number, parse_constant=_Number)
        if isinstance(parsed, dict):
            return dict(_flattened(parsed, ""))
    except (ValueError, RecursionError):
        pass
    raise NotComparable(NotComparable.__doc__)


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


def _flattened(value: Any, path: str) -> Iterator[tuple[str, str]]:
    match value:
        case dict() if value:
            for name, inner in value.items():
                yield from _flattened(inner, f"{path}.{name}" if path else name)
        case _Number():
            yield path, str(value)
        case _:
            yield path, json.dumps(value, ensure_ascii=False)
