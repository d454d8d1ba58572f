"""Taking messages out of the dead-letter queue: the closed ones leave it, all others lie where they lay."""

from collections.abc import Awaitable, Callable, Collection, Iterable
from hashlib import sha256

import pytest

from tests.support.broker import message_count, raw_channel, take_all
from wallet.rabbitmq.dead_letter_queue import take_out_closed
from wallet.rabbitmq.publisher import Publisher
from wallet.rabbitmq.topology import DEAD_LETTER_QUEUE, Topology

AreOpen = Callable[[Collection[bytes]], Awaitable[dict[bytes, bool]]]


async def fill(url: str, bodies: Iterable[bytes]) -> None:
    async with Publisher.open(url, Topology(), name="test"):
        pass
    async with raw_channel(url) as channel:
        for body in bodies:
            channel.send(channel.pika.basic_publish, exchange="", routing_key=DEAD_LETTER_QUEUE, body=body)


async def bodies_in_queue(url: str) -> list[bytes]:
    return [body for _, body in await take_all(url, DEAD_LETTER_QUEUE)]


def letters(open_bodies: Iterable[bytes] = (), closed_bodies: Iterable[bytes] = ()) -> AreOpen:
    """Dead letters of these bodies."""
    known = {sha256(body).digest(): True for body in open_bodies}
    known |= {sha256(body).digest(): False for body in closed_bodies}

    async def are_open(digests: Collection[bytes]) -> dict[bytes, bool]:
        return {digest: known[digest] for digest in digests if digest in known}

    return are_open


async def test_reading_thirty_times_loses_nothing_and_moves_nothing(rabbitmq_url: str) -> None:
    bodies = [f"message {number}".encode() for number in range(450)]
    await fill(rabbitmq_url, bodies)
    for _ in range(30):
        assert await take_out_closed(rabbitmq_url, letters(open_bodies=bodies), name="test") == 0
    assert await message_count(rabbitmq_url, DEAD_LETTER_QUEUE) == len(bodies)
    assert await bodies_in_queue(rabbitmq_url) == bodies


async def test_only_messages_of_closed_letters_leave_the_queue(rabbitmq_url: str) -> None:
    bodies = [f"message {number}".encode() for number in range(450)]
    closed = [bodies[0], bodies[222], bodies[449]]
    await fill(rabbitmq_url, [*bodies, closed[0]])
    known = letters(open_bodies=set(bodies[:300]) - set(closed), closed_bodies=closed)
    assert await take_out_closed(rabbitmq_url, known, name="test") == 4
    assert await bodies_in_queue(rabbitmq_url) == [body for body in bodies if body not in closed]


async def test_of_an_open_letter_one_message_stays_and_strangers_are_not_touched(rabbitmq_url: str) -> None:
    await fill(rabbitmq_url, [b"open", b"stranger", b"open", b"stranger", b"open"])
    assert await take_out_closed(rabbitmq_url, letters(open_bodies=[b"open"]), name="test") == 0
    assert await bodies_in_queue(rabbitmq_url) == [b"open", b"stranger", b"stranger"]


async def test_a_letter_closed_while_its_message_was_unacknowledged_is_found_by_the_next_pass(
    rabbitmq_url: str,
) -> None:
    await fill(rabbitmq_url, [b"first", b"second"])
    answers = iter([letters(open_bodies=[b"first", b"second"])])

    async def are_open(digests: Collection[bytes]) -> dict[bytes, bool]:
        """Both are open at the first check; after that another operator has closed the second."""
        now = next(answers, letters(open_bodies=[b"first"], closed_bodies=[b"second"]))
        return await now(digests)

    assert await take_out_closed(rabbitmq_url, are_open, name="test") == 1
    assert await bodies_in_queue(rabbitmq_url) == [b"first"]


async def test_a_pass_that_fails_halfway_gives_everything_back(rabbitmq_url: str) -> None:
    bodies = [f"message {number}".encode() for number in range(250)]
    await fill(rabbitmq_url, bodies)

    async def are_open(_digests: Collection[bytes]) -> dict[bytes, bool]:
        raise ConnectionError("the database went away")

    with pytest.raises(ConnectionError):
        await take_out_closed(rabbitmq_url, are_open, name="test")
    assert await bodies_in_queue(rabbitmq_url) == bodies


async def test_a_pass_ends_with_the_last_message_that_was_there_when_it_began(rabbitmq_url: str) -> None:
    await fill(rabbitmq_url, [b"open"] * 200)
    checks = 0

    async def are_open(digests: Collection[bytes]) -> dict[bytes, bool]:
        """Publishes as many new messages as each check read."""
        nonlocal checks
        checks += 1
        await fill(rabbitmq_url, [f"new {checks} {number}".encode() for number in range(200)])
        return dict.fromkeys(digests, True)

    assert await take_out_closed(rabbitmq_url, are_open, name="test") == 0
    assert checks == 2  # Once for the messages it had received, once more after it gave them back.
    assert len(await bodies_in_queue(rabbitmq_url)) == 401


async def test_large_bodies_are_distinguished(rabbitmq_url: str) -> None:
    large = [bytes([number]) * 5 * 1024 * 1024 for number in range(4)]
    await fill(rabbitmq_url, large)
    known = letters(open_bodies=large[:2], closed_bodies=large[2:])
    assert await take_out_closed(rabbitmq_url, known, name="test") == 2
    assert await bodies_in_queue(rabbitmq_url) == large[:2]


async def test_a_queue_that_was_never_made_is_empty(rabbitmq_url: str) -> None:
    assert await take_out_closed(rabbitmq_url, letters(), name="test") == 0
