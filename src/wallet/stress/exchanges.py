"""The history of a run: which requests were sent, answered or left unknown. The checks read it."""

from dataclasses import dataclass, field
from typing import Final

from wallet.stress.operations import PlannedRequest

REQUEST_TIMEOUT: Final = 408
TOO_MANY_REQUESTS: Final = 429
SERVER_ERROR_FIRST: Final = 500
UNAVAILABLE: Final = 503
SUCCESSES: Final = range(200, 300)


@dataclass(frozen=True, slots=True)
class Timing:
    """The address of a try and its time, from the first byte sent to the last byte of its answer."""

    url: str
    sent_at_seconds: float
    ended_at_seconds: float


@dataclass(frozen=True, slots=True)
class ServiceAnswer:
    """A status, the body, and the URL of the next page from the Link header."""

    status: int
    body: bytes
    next_url: str | None = None
    is_replayed: bool = False
    """Whether the service reports that this answer was given to an earlier request with the same key."""
    timing: Timing | None = field(default=None, compare=False)

    @property
    def is_definite(self) -> bool:
        """Returns whether the outcome is known. A server error leaves it open; 408, 429 and 503 ask for a retry."""
        return self.status < SERVER_ERROR_FIRST and self.status not in (REQUEST_TIMEOUT, TOO_MANY_REQUESTS)

    @property
    def is_server_error(self) -> bool:
        """Returns whether the service failed in a way that it should not. A 503 is allowed: it reports a temporary
        problem.
        """
        return self.status >= SERVER_ERROR_FIRST and self.status != UNAVAILABLE

    @property
    def is_success(self) -> bool:
        """Returns whether the service reports success."""
        return self.status in SUCCESSES


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The connection failed or the time limit passed: the request may have taken effect or not."""

    reason: str
    timing: Timing | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class TriedRequest:
    """One request with all its tries, from the first byte sent to the last byte read."""

    request: PlannedRequest
    tries: tuple[ServiceAnswer | NoAnswer, ...]
    sent_at_seconds: float
    ended_at_seconds: float

    @property
    def answer(self) -> ServiceAnswer | None:
        """Returns the definite answer, or None if the outcome stayed unknown."""
        last = self.tries[-1]
        return last if isinstance(last, ServiceAnswer) and last.is_definite else None

    @property
    def took_seconds(self) -> float:
        """Returns how long a user waited for the outcome, retries included."""
        return self.ended_at_seconds - self.sent_at_seconds
