"""Limits of one process: how many requests a key may send and have in flight."""

from collections import Counter
from collections.abc import Callable
from math import ceil
from time import monotonic
from typing import Final

from wallet.access.principal import RateLimit
from wallet.domain.money import Value

IN_FLIGHT_MAX: Final = 256
"""Requests of one key at the same time."""
WRONG_KEYS: Final = RateLimit(rate=1.0, burst=20)
"""How many wrong keys an address may send before its further requests with a wrong key are answered 429."""
BUCKETS_MAX: Final = 10_000


class TooMany(Value, frozen=True):
    """A request beyond the limit: the limit, and after how many whole seconds the next one is accepted."""

    limit: int
    retry_after_seconds: int


class TokenBuckets:
    """A token bucket for each name, in the order of their last use: beyond BUCKETS_MAX the oldest is forgotten."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, name: str, limit: RateLimit) -> TooMany | None:
        """Take a token. Returns None, or when the next one is there."""
        now = self._clock()
        tokens, at = self._buckets.pop(name, (float(limit.burst), now))
        tokens = min(limit.burst, tokens + (now - at) * limit.rate)
        if tokens < 1:
            self._buckets[name] = tokens, now
            return TooMany(limit.burst, max(1, ceil((1 - tokens) / limit.rate)))
        if len(self._buckets) >= BUCKETS_MAX:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[name] = tokens - 1, now
        return None


class InFlight:
    """Counts the requests of each key that are not answered yet."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def begin(self, name: str) -> TooMany | None:
        """Count a request. Returns None, or that there are too many; then it is not counted."""
        if self._counts[name] >= IN_FLIGHT_MAX:
            return TooMany(IN_FLIGHT_MAX, 1)
        self._counts[name] += 1
        return None

    def end(self, name: str) -> None:
        """Count the end of a request."""
        self._counts[name] -= 1
        if not self._counts[name]:
            del self._counts[name]
