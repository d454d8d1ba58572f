"""Counting confirms: single and multiple, acks and nacks, returns, in any order."""

import random

from wallet.rabbitmq.publisher import OutgoingMessage, Window


def window_of(count: int, first_tag: int = 1) -> Window:
    return Window([OutgoingMessage(b"", f"id-{number}", None) for number in range(count)], first_tag)


def test_an_empty_window_is_confirmed() -> None:
    assert window_of(0).is_complete
    assert window_of(0).confirmed.is_set()


def test_one_multiple_ack_confirms_all_up_to_it() -> None:
    window = window_of(3, first_tag=11)
    window.confirm(12, multiple=True, is_ack=True)
    assert not window.is_complete
    window.confirm(13, multiple=False, is_ack=True)
    assert window.confirmed.is_set()
    assert window.unpublished == set()


def test_a_nack_leaves_its_message_unpublished() -> None:
    window = window_of(3)
    window.confirm(2, multiple=False, is_ack=False)
    window.confirm(3, multiple=True, is_ack=True)
    assert window.is_complete
    assert window.unpublished == {1}
    assert window.reason == "refused by the queue"


def test_a_multiple_nack_leaves_all_it_covers_unpublished() -> None:
    window = window_of(4)
    window.confirm(1, multiple=False, is_ack=True)
    window.confirm(3, multiple=True, is_ack=False)
    window.confirm(4, multiple=True, is_ack=True)
    assert window.unpublished == {1, 2}


def test_a_returned_message_is_not_published_although_it_is_confirmed() -> None:
    window = window_of(3)
    window.give_back("id-1", "returned: 312 NO_ROUTE")
    window.confirm(3, multiple=True, is_ack=True)
    assert window.is_complete
    assert window.unpublished == {1}
    assert window.reason == "returned: 312 NO_ROUTE"


def test_confirms_in_any_order_resolve_each_message_once(seed: int) -> None:
    shuffled = random.Random(seed)
    for _ in range(200):
        count = shuffled.randint(1, 30)
        window = window_of(count, first_tag=100)
        tags = list(range(100, 100 + count))
        shuffled.shuffle(tags)
        nacked: set[int] = set()
        confirmed: set[int] = set()
        for tag in tags:
            if tag in confirmed:
                continue
            multiple, is_ack = shuffled.random() < 0.3, shuffled.random() < 0.8
            covered = {other for other in range(100, tag + 1) if multiple or other == tag} - confirmed
            confirmed |= covered
            nacked |= set() if is_ack else {other - 100 for other in covered}
            window.confirm(tag, multiple=multiple, is_ack=is_ack)
            assert window.is_complete == (len(confirmed) == count)
        assert window.unpublished == nacked
