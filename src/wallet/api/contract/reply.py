"""What a handler answers, as a value; the edge sends it."""

from datetime import UTC, datetime
from typing import Final

import msgspec

from wallet.api.contract.schemas import JSON


class Reply(msgspec.Struct, frozen=True):
    """What a handler answers. A reply in pieces is sent so that the server copies one piece at a time."""

    body: bytes
    content_type: str = JSON
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    is_in_pieces: bool = False


def json_reply(shape: object, *, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """Returns the reply with a value that is true only at the moment it is read."""
    return Reply(_encode(shape), headers=(*headers, NO_STORE))


def format_time(moment: datetime) -> str:
    """A time as it leaves the service: RFC 3339, UTC, always six digits of a second."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


NO_STORE: Final = ("Cache-Control", "no-store")
_encode: Final = msgspec.json.Encoder().encode
