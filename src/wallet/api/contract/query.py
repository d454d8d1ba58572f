"""Reads the query of a request strictly: only known parameters, each once. Also reads times."""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Final
from urllib.parse import unquote_to_bytes

from wallet.api.contract.bodies import ERRORS_MAX, printable
from wallet.api.contract.problems import Code, FieldError, refusal_of

_NO_NAME: Final = '""'


def read_parameters(query: str, known: Sequence[str]) -> dict[str, str]:
    """Returns the parameters by name, decoded. Raises Refused for unknown and for repeated ones."""
    values: dict[str, str] = {}
    errors: list[FieldError] = []
    for pair in query.split("&"):
        if not pair:
            continue
        raw_name, _, raw_value = pair.partition("=")
        name = _decoded(raw_name)
        if name not in known:
            errors.append(_unknown(name, known))
        elif name in values:
            errors.append(parameter_error(name, "is given twice"))
        else:
            values[name] = _decoded(raw_value)
        if len(errors) == ERRORS_MAX:
            break
    if errors:
        raise refusal_of(errors)
    return values


def parameter_error(name: str, detail: str) -> FieldError:
    """Returns what is wrong with a parameter of the query."""
    return FieldError(Code.INVALID_REQUEST, detail, parameter=name)


def _unknown(name: str, known: Sequence[str]) -> FieldError:
    takes = f"known are {', '.join(known)}" if known else "it takes none"
    return parameter_error(printable(name) or _NO_NAME, f"is not a query parameter of this route; {takes}")


def _decoded(text: str) -> str:
    """Returns the text with its escapes decoded. A plus stays a plus: no value contains a blank, but a time's offset
    may be +02:00.
    """
    return unquote_to_bytes(text).decode("utf-8", "replace")


_TIME: Final = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})[Tt]"
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})(\.(?P<fraction>[0-9]+))?"
    r"([Zz]|(?P<sign>[+-])(?P<offset_hours>[0-9]{2}):(?P<offset_minutes>[0-9]{2}))",
    re.ASCII,
)


class UnreadableValue(ValueError):
    """A parameter's value is wrong; the message states what it must be."""


def parse_time(text: str) -> datetime:
    """Returns the first microsecond that is not before this RFC 3339 time.

    Events have microseconds. If a time has more digits, "earlier than T" means "earlier than T rounded up".
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise UnreadableValue("must be an RFC 3339 time with its offset, such as 2026-01-31T12:00:00.000001Z")
    digits = (match["fraction"] or "").ljust(6, "0")
    try:
        day = date(int(match["year"]), int(match["month"]), int(match["day"]))
        clock = time(int(match["hour"]), int(match["minute"]), int(match["second"]), int(digits[:6]))
        moment = datetime.combine(day, clock, _offset(match)).astimezone(UTC)
        return moment + timedelta(microseconds=1) if digits[6:].strip("0") else moment
    except (ValueError, OverflowError):
        raise UnreadableValue("must be a time that exists, in the years 1 to 9999 and without a leap second") from None


def _offset(match: re.Match[str]) -> timezone:
    if match["sign"] is None:
        return UTC
    hours, minutes = int(match["offset_hours"]), int(match["offset_minutes"])
    if hours > 23 or minutes > 59:
        raise ValueError("an offset is below 24 hours")
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if match["sign"] == "-" else offset)
