"""Where new ids come from: UUIDv7, in the driver's own type, which it need not take apart to send."""

from uuid import UUID

import uuid_utils
from asyncpg.pgproto import pgproto


def uuid7() -> UUID:
    """A new id, a third of the cost of the standard type and ten times as fast to print; equal to its like of both."""
    return pgproto.UUID(uuid_utils.uuid7().bytes)
