"""Reads a list page by page: the parameters limit, cursor and before, and the Link header to the next page.

A page begins where the previous page ended, at a key that the rows have. So rows that are added in the meantime are
neither skipped nor shown twice. A list declares its order once, as an `Order`.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlencode

from wallet.api.contract.problems import refusal_of
from wallet.api.contract.query import UnreadableValue, parameter_error, parse_time
from wallet.api.contract.reply import Reply, json_reply
from wallet.api.contract.route import Parameter
from wallet.domain.identifiers import BIGINT_MAX

LIMIT_DEFAULT: Final = 50
LIMIT_SERVED_MAX: Final = 200

LIMIT: Final = Parameter(
    "limit",
    "query",
    f"The highest number of items in the answer; more than {LIMIT_SERVED_MAX} is served as {LIMIT_SERVED_MAX}.",
    {"type": "integer", "minimum": 1, "default": LIMIT_DEFAULT},
)
CURSOR: Final = Parameter(
    "cursor",
    "query",
    "Continues where the previous page ended. It comes from that page's `Link` header.",
    {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
)

Key = TypeVar("Key")
Row = TypeVar("Row")

_LIMIT: Final = re.compile(r"0*(?P<digits>[1-9][0-9]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Order(Generic[Key]):
    """The order of a list: a letter with which its cursors begin, and the key that they contain.

    `parse` reads a key from its `str`. It raises ValueError.
    """

    letter: str
    parse: Callable[[str], Key]

    def cursor_after(self, key: Key) -> str:
        """Returns the cursor of the page that continues after this key. Cursors are opaque to clients."""
        return urlsafe_b64encode(f"{self.letter}{key}".encode()).decode().rstrip("=")

    def parse_cursor(self, text: str) -> Key:
        """Returns the key after which a page continues. Accepts only what `cursor_after` returns. Raises
        UnreadableValue.
        """
        try:
            decoded = urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)).decode()
            key = self.parse(decoded.removeprefix(self.letter))
        except ValueError:
            raise _not_a_cursor() from None
        if self.cursor_after(key) != text:
            raise _not_a_cursor()
        return key


@dataclass(frozen=True, slots=True)
class Page(Generic[Key]):
    """Which items to show: at most `limit`, after a key, or before a time. `filters` are all other parameters, which
    the list reads itself and the Link header repeats.
    """

    limit: int
    after: Key | None
    before: datetime | None
    filters: Mapping[str, str]


def read_page(values: Mapping[str, str], order: Order[Key]) -> Page[Key]:
    """Read the parameters of a page; their names have been checked. Raises Refused."""
    errors = []
    limit, after, before = LIMIT_DEFAULT, None, None
    filters: dict[str, str] = {}
    for name, value in values.items():
        try:
            match name:
                case "limit":
                    limit = parse_limit(value)
                case "cursor":
                    after = order.parse_cursor(value)
                case "before":
                    before = parse_time(value)
                case _:
                    filters[name] = value
        except UnreadableValue as error:
            errors.append(parameter_error(name, str(error)))
    if "cursor" in values and "before" in values:
        errors.append(parameter_error("before", "cannot be combined with cursor: send one of them"))
    if errors:
        raise refusal_of(errors)
    return Page(limit, after, before, filters)


def page_reply(
    path: str,
    page: Page[Key],
    order: Order[Key],
    rows: Sequence[Row],
    *,
    key_of: Callable[[Row], Key],
    shape_of: Callable[[Row], Any],
) -> Reply:
    """Returns the answer with a page of `rows`; there is one row more than on the page if there is a next page."""
    shown = rows[: page.limit]
    headers: tuple[tuple[str, str], ...] = ()
    if len(rows) > page.limit:
        query = urlencode({**page.filters, "limit": page.limit, "cursor": order.cursor_after(key_of(shown[-1]))})
        headers = (("Link", f'<{path}?{query}>; rel="next"'),)
    return json_reply([shape_of(row) for row in shown], headers=headers)


def parse_limit(text: str) -> int:
    """Returns how many items a page has; a larger number than the maximum is reduced to it. Raises UnreadableValue."""
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise UnreadableValue("must be a whole number of at least 1")
    digits = match["digits"]
    return LIMIT_SERVED_MAX if len(digits) > 3 else min(int(digits), LIMIT_SERVED_MAX)


def positive_number(text: str) -> int:
    """Returns a positive number that fits PostgreSQL's bigint, as a key of an order. Raises ValueError."""
    number = int(text)
    if not 0 < number <= BIGINT_MAX:
        raise ValueError(text)
    return number


def _not_a_cursor() -> UnreadableValue:
    return UnreadableValue('must be the cursor of a Link header with rel="next"')
