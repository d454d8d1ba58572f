"""Reads the query of a request strictly: the known parameters only, and limit, cursor and before of a history page."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """Escapes undone. A plus stays a plus: no value contains a blank, but a time's offset may be +02:00."""
    return unquote_to_bytes(text).decode("utf-8", "replace")


LIMIT_DEFAULT: Final = 50
LIMIT_SERVED_MAX: Final = 200
VERSION_MAX: Final = 2**63 - 1

_LIMIT: Final = re.compile(r"0*(?P<digits>[1-9][0-9]*)", re.ASCII)
_CURSOR: Final = re.compile(r"v(?P<version>[1-9][0-9]{0,18})", re.ASCII)
_TIME: Final = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})[Tt]"
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})(\.(?P<fraction>[0-9]+))?"
    r"([Zz]|(?P<sign>[+-])(?P<offset_hours>[0-9]{2}):(?P<offset_minutes>[0-9]{2}))",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Page:
    """Which events to show: at most `limit`, below a version, or before a time."""

    limit: int
    below_version: int | None
    before: datetime | None


class Unreadable(ValueError):
    """A parameter's value is wrong; the message states what it must be."""


def read_page(values: Mapping[str, str]) -> Page:
    """Read the parameters of a history request, whose names have been checked. Raises Refused."""
    errors: list[FieldError] = []
    limit, version, before = LIMIT_DEFAULT, None, None
    for name, value in values.items():
        try:
            match name:
                case "limit":
                    limit = parse_limit(value)
                case "cursor":
                    version = parse_cursor(value)
                case _:
                    before = parse_time(value)
        except Unreadable as error:
            errors.append(parameter_error(name, str(error)))
    if "cursor" in values and "before" in values:
        errors.append(parameter_error("before", "cannot be combined with cursor: send one of them"))
    if errors:
        raise refusal_of(errors)
    return Page(limit, version, before)


def parse_limit(text: str) -> int:
    """How many events a page holds; more than the most is served as the most."""
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise Unreadable("must be a whole number of at least 1")
    digits = match["digits"]
    return LIMIT_SERVED_MAX if len(digits) > 3 else min(int(digits), LIMIT_SERVED_MAX)


def format_cursor(version: int) -> str:
    """The opaque cursor of the page that continues below this version."""
    return urlsafe_b64encode(f"v{version}".encode()).decode().rstrip("=")


def parse_cursor(text: str) -> int:
    """The version below which a page continues; only what format_cursor made is taken."""
    try:
        match = _CURSOR.fullmatch(urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)).decode())
    except ValueError:
        match = None
    version = 0 if match is None else int(match["version"])
    if not 0 < version <= VERSION_MAX or format_cursor(version) != text:
        raise Unreadable('must be the cursor of a Link header with rel="next"')
    return version


def parse_time(text: str) -> datetime:
    """The first microsecond that is not before this RFC 3339 time.

    Events carry microseconds: with more digits "earlier than T" means "earlier than T rounded up".
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise Unreadable("must be an RFC 3339 time with its offset, such as 2026-01-31T12:00:00.000001Z")
    digits = (match["fraction"] or "").ljust(6, "0")
    try:
        day = date(int(match["year"]), int(match["month"]), int(match["day"]))
        clock = time(int(match["hour"]), int(match["minute"]), int(match["second"]), int(digits[:6]))
        moment = datetime.combine(day, clock, _offset(match)).astimezone(UTC)
        return moment + timedelta(microseconds=1) if digits[6:].strip("0") else moment
    except (ValueError, OverflowError):
        raise Unreadable("must be a time that exists, in the years 1 to 9999 and without a leap second") from None


def _offset(match: re.Match[str]) -> timezone:
    if match["sign"] is None:
        return UTC
    hours, minutes = int(match["offset_hours"]), int(match["offset_minutes"])
    if hours > 23 or minutes > 59:
        raise ValueError("an offset is below 24 hours")
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if match["sign"] == "-" else offset)
