"""What was invoked, answered or left unknown: the run's history, from which the checks are made."""

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
    """Where a try was sent, and when: from its first byte to the last one of its answer."""

    url: str
    sent_at_seconds: float
    ended_at_seconds: float


@dataclass(frozen=True, slots=True)
class ServiceAnswer:
    """A status, the bytes that came with it, and where its Link header says that the next page is."""

    status: int
    body: bytes
    next_url: str | None = None
    is_replayed: bool = False
    """Whether the service says that an earlier request with the key had this answer."""
    timing: Timing | None = field(default=None, compare=False)

    @property
    def is_definite(self) -> bool:
        """Whether it tells the request's outcome. A server error leaves it open; 408, 429 and 503 ask to come again."""
        return self.status < SERVER_ERROR_FIRST and self.status not in (REQUEST_TIMEOUT, TOO_MANY_REQUESTS)

    @property
    def is_server_error(self) -> bool:
        """Whether the service failed in a way that it should not: a 503 says honestly that it cannot now."""
        return self.status >= SERVER_ERROR_FIRST and self.status != UNAVAILABLE

    @property
    def is_success(self) -> bool:
        """Whether the service says that it did what was asked."""
        return self.status in SUCCESSES


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The connection failed or the time was up: it may have taken effect or not."""

    reason: str
    timing: Timing | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class TriedRequest:
    """One request with all its tries, from the first byte sent to the last one read."""

    request: PlannedRequest
    tries: tuple[ServiceAnswer | NoAnswer, ...]
    sent_at_seconds: float
    ended_at_seconds: float

    @property
    def answer(self) -> ServiceAnswer | None:
        """The definite answer; None where the outcome stayed unknown."""
        last = self.tries[-1]
        return last if isinstance(last, ServiceAnswer) and last.is_definite else None

    @property
    def took_seconds(self) -> float:
        """What a user waited for the outcome, retries included."""
        return self.ended_at_seconds - self.sent_at_seconds
