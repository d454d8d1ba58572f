"""The ids of the domain, the one rule for their spelling, and the bucket of a wallet."""

import re
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple, NewType
from uuid import UUID

WalletId = NewType("WalletId", str)
RequestId = NewType("RequestId", str)
TransferId = NewType("TransferId", UUID)
EventId = NewType("EventId", UUID)
BatchId = NewType("BatchId", UUID)
ApiAuditId = NewType("ApiAuditId", UUID)

BUCKET_COUNT: Final = 64
NO_WALLET_BUCKET: Final = 0
"""The bucket of rows that belong to no wallet, such as the trail row of a malformed request."""

BIGINT_MAX: Final = 2**63 - 1
"""The largest number of PostgreSQL's type bigint, such as a version or a position."""

ID_LENGTH_MAX: Final = 128
ID_PATTERN: Final = "[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}"
matches_id: Final = re.compile(ID_PATTERN, re.ASCII).fullmatch
"""Returns a match if the text is an id, else None. It is faster than `is_id`, for code that checks thousands of ids."""


def is_id(text: str) -> bool:
    """Returns whether the whole text is a wallet id or request id: 1-128 characters, see ID_PATTERN."""
    return matches_id(text) is not None


@lru_cache(maxsize=1 << 16)
def bucket_of(wallet_id: WalletId) -> int:
    """Returns the stable bucket (0-63) of a wallet. The SQL function wallet_bucket(text) returns the same number."""
    return sha256(wallet_id.encode()).digest()[0] & (BUCKET_COUNT - 1)


class OperationKey(NamedTuple):
    """The scope of an idempotency key: the wallet of the path and the client's key."""

    wallet_id: WalletId
    request_id: RequestId
