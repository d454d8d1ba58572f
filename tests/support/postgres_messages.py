"""PostgreSQL's wire protocol, as far as is needed to split each direction into messages.

A message is a type byte, a length that includes itself, and a body. A client's first message has no type byte: it
starts the session, requests encryption (answered by a single byte), or requests the cancellation of another session's
statement. After encryption has begun, messages can't be read, and all bytes pass unchanged.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

HEAD_BYTES_MAX: Final = 1024
"""A message passes once this much of its body has arrived: enough for names and for COMMIT in every message."""

LENGTH_BYTES: Final = 4
STARTUP_BYTES_MAX: Final = 10_000
"""PostgreSQL's own limit; bytes with a greater length are not a startup message."""

STARTUP: Final = "startup"
ENCRYPTION_REQUEST: Final = "encryption request"
ENCRYPTION_ANSWER: Final = "encryption answer"
CANCEL_REQUEST: Final = "cancel request"

_UNTYPED: Final = {80877102: CANCEL_REQUEST, 80877103: ENCRYPTION_REQUEST, 80877104: ENCRYPTION_REQUEST}
_ENCRYPTION_ANSWERS: Final = b"SGN"
_TLS_HANDSHAKE: Final = 0x16


class NotPostgres(Exception):
    """These bytes can't be a message of PostgreSQL's protocol; the error has the reason."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message: `kind` is its type letter or one of the names above, `head` the beginning of its body."""

    kind: str
    head: bytes
    body_length: int

    @property
    def is_whole(self) -> bool:
        """Returns whether the head is the whole body."""
        return len(self.head) == self.body_length


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of one message, together with the message if they are its beginning."""

    data: bytes
    message: Message | None


class Framing:
    """Splits the bytes of one direction into pieces. It buffers at most one message's head; the rest passes at once.

    The pieces, joined, equal the bytes that were passed in.
    """

    def __init__(self, *, from_client: bool) -> None:
        self.is_opaque = False
        """Set when encryption begins: from then on the pieces have no message."""
        self._from_client = from_client
        self._has_begun = not from_client
        self._expects_encryption_answer = False
        self._buffer = bytearray()
        self._rest = 0

    def expect_encryption_answer(self) -> None:
        """Treat the server's next byte as the answer to an encryption request."""
        self._expects_encryption_answer = True

    def split(self, data: bytes) -> Iterator[Piece]:
        """Yields the pieces that are complete with these bytes."""
        self._buffer += data
        position = 0
        while position < len(self._buffer):
            piece = self._next_piece(position)
            if piece is None:
                break
            position += len(piece.data)
            yield piece
        del self._buffer[:position]

    def _next_piece(self, position: int) -> Piece | None:
        if self.is_opaque or self._rest:
            return self._continue(position)
        if self._expects_encryption_answer:
            self._expects_encryption_answer = False
            if self._buffer[position] in _ENCRYPTION_ANSWERS:
                answer = bytes(self._buffer[position : position + 1])
                return Piece(answer, Message(ENCRYPTION_ANSWER, answer, 1))
        if not self._has_begun and self._buffer[position] == _TLS_HANDSHAKE:
            self.is_opaque = True
            return self._continue(position)
        return self._begin(position)

    def _continue(self, position: int) -> Piece:
        end = len(self._buffer) if self.is_opaque else position + self._rest
        data = bytes(self._buffer[position:end])
        self._rest = max(self._rest - len(data), 0)
        return Piece(data, None)

    def _begin(self, position: int) -> Piece | None:
        header = LENGTH_BYTES + (1 if self._has_begun else 0)
        if len(self._buffer) - position < header:
            return None
        begin = position + header
        body_length = int.from_bytes(self._buffer[begin - LENGTH_BYTES : begin]) - LENGTH_BYTES
        if body_length < 0 or (not self._has_begun and not LENGTH_BYTES <= body_length <= STARTUP_BYTES_MAX):
            raise NotPostgres(f"a length of {body_length} at {bytes(self._buffer[position:begin])!r}")
        end = begin + min(body_length, HEAD_BYTES_MAX)
        if len(self._buffer) < end:
            return None
        head = bytes(self._buffer[begin:end])
        self._rest = body_length - len(head)
        kind = chr(self._buffer[position]) if self._has_begun else self._kind_of_untyped(head)
        return Piece(bytes(self._buffer[position:end]), Message(kind, head, body_length))

    def _kind_of_untyped(self, head: bytes) -> str:
        kind = _UNTYPED.get(int.from_bytes(head[:LENGTH_BYTES]), STARTUP)
        self._has_begun = kind == STARTUP
        return kind
