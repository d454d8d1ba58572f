"""The two ids that tie a request to its caller's logs: X-Request-Id and traceparent, taken or made."""

import re
from typing import Final

import uuid_utils

from wallet.domain.identifiers import is_id

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace_id>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII
)


def correlate(given_id: str | None, given_traceparent: str | None) -> tuple[str, str]:
    """The request's X-Request-Id and traceparent: the caller's where they are well-formed, else new ones."""
    match = None if given_traceparent is None else _TRACEPARENT.fullmatch(given_traceparent)
    trace_id = uuid_utils.uuid4().hex if match is None else match["trace_id"]
    correlation_id = trace_id if given_id is None or not is_id(given_id) else given_id
    if match is not None:
        return correlation_id, match[0]
    # The low half of a random uuid starts with its variant bits, so it is never the forbidden all-zero span.
    return correlation_id, f"00-{trace_id}-{uuid_utils.uuid4().hex[16:]}-00"
