"""The limits of a key: how many requests it may send, and how many it may have in flight."""

from wallet.access.limits import BUCKETS_MAX, IN_FLIGHT_MAX, InFlight, TokenBuckets, TooMany
from wallet.access.principal import RateLimit

TWO_A_SECOND = RateLimit(rate=2.0, burst=3)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_accepted_and_then_one_request_for_each_token() -> None:
    clock = Clock()
    buckets = TokenBuckets(clock)
    assert [buckets.take("a", TWO_A_SECOND) for _ in range(4)] == [None, None, None, TooMany(3, 1)]
    assert buckets.take("b", TWO_A_SECOND) is None
    clock.now += 0.5
    assert buckets.take("a", TWO_A_SECOND) is None
    assert buckets.take("a", TWO_A_SECOND) == TooMany(3, 1)
    clock.now += 3_600
    assert [buckets.take("a", TWO_A_SECOND) is None for _ in range(4)] == [True, True, True, False]


def test_a_refused_request_takes_no_token() -> None:
    clock = Clock()
    buckets = TokenBuckets(clock)
    slow = RateLimit(rate=0.1, burst=1)
    assert buckets.take("a", slow) is None
    assert {buckets.take("a", slow) for _ in range(10)} == {TooMany(1, 10)}
    clock.now += 10
    assert buckets.take("a", slow) is None


def test_the_number_of_names_is_bounded_and_the_oldest_is_forgotten() -> None:
    buckets = TokenBuckets(Clock())
    once = RateLimit(rate=0.001, burst=1)
    assert buckets.take("first", once) is None
    for number in range(BUCKETS_MAX - 1):
        buckets.take(str(number), once)
    assert buckets.take("first", once) is not None
    buckets.take("one more", once)
    assert buckets.take("first", once) is not None
    assert buckets.take("0", once) is None


def test_a_key_has_a_limited_number_of_requests_in_flight() -> None:
    flights = InFlight()
    assert {flights.begin("a") for _ in range(IN_FLIGHT_MAX)} == {None}
    assert flights.begin("a") == TooMany(IN_FLIGHT_MAX, 1)
    assert flights.begin("b") is None
    flights.end("a")
    assert flights.begin("a") is None
