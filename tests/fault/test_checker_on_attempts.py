"""What the checker concludes from the attempts with a key, and what it must not conclude."""

from collections.abc import Sequence
from decimal import Decimal

import pytest

from tests.fault.attempts import wrongly_not_executed
from tests.fault.load import Start
from wallet.stress.exchanges import NoAnswer, ServiceAnswer, Timing, TriedRequest
from wallet.stress.operations import Key, Operation, OperationKind, PlannedRequest, WalletId

REQUEST = PlannedRequest(1, Operation(OperationKind.DEPOSIT, WalletId("alice"), Key("key"), Decimal(1)))
ONE, TWO = "http://one", "http://two"


def unavailable(code: str, url: str, sent: float, ended: float) -> ServiceAnswer:
    return ServiceAnswer(503, b'{"code": "%s"}' % code.encode(), timing=Timing(url, sent, ended))


def unknown(url: str, sent: float, ended: float) -> ServiceAnswer:
    return unavailable("outcome_unknown", url, sent, ended)


def refused(url: str, sent: float, ended: float) -> ServiceAnswer:
    return unavailable("not_executed", url, sent, ended)


def lost(url: str, sent: float, ended: float) -> NoAnswer:
    return NoAnswer("lost", Timing(url, sent, ended))


def done(sent: float, *, is_replayed: bool) -> ServiceAnswer:
    return ServiceAnswer(201, b"{}", is_replayed=is_replayed, timing=Timing(ONE, sent, sent + 1))


REPLAYED, OWN = done(10, is_replayed=True), done(10, is_replayed=False)


@pytest.mark.parametrize(
    ("tries", "starts", "is_wrong"),
    [
        ([unknown(ONE, 0, 1), refused(ONE, 2, 3), REPLAYED], [], True),
        ([unknown(ONE, 0, 1), unknown(ONE, 1, 2), refused(ONE, 2, 3), REPLAYED], [(ONE, -5.0), (TWO, 1.0)], True),
        ([refused(ONE, 0, 1), refused(TWO, 2, 3), REPLAYED], [], True),
        ([unknown(ONE, 0, 1), refused(ONE, 2, 3), OWN], [], False),
        ([unknown(TWO, 0, 1), refused(ONE, 2, 3), REPLAYED], [], False),
        ([unknown(TWO, 0, 1), unknown(ONE, 0, 1), refused(ONE, 2, 3), REPLAYED], [], False),
        ([unknown(ONE, 0, 1), refused(ONE, 2, 3), REPLAYED], [(ONE, 1.5)], False),
        ([lost(ONE, 0, 1), refused(ONE, 2, 3), REPLAYED], [], False),
        ([refused(ONE, 2, 3), unknown(ONE, 4, 5), REPLAYED], [], False),
        ([unknown(ONE, 0, 5), refused(ONE, 2, 3), REPLAYED], [], False),
        ([unknown(ONE, 0, 1), REPLAYED, refused(ONE, 12, 13)], [], False),
        ([unknown(ONE, 0, 1), refused(ONE, 2, 3)], [], False),
        ([refused(ONE, 0, 1), OWN], [], False),
    ],
    ids=[
        "after an unknown outcome",
        "after two, and a start of another process",
        "each was refused",
        "the retry had the effect itself",
        "another process",
        "the effect may be another process's",
        "a restart between them",
        "the answer was lost",
        "the other came later",
        "they overlapped",
        "the answer was known before",
        "no effect is known",
        "refused, then done",
    ],
)
def test_an_answer_is_called_wrong_only_where_the_attempts_prove_it(
    tries: Sequence[ServiceAnswer | NoAnswer], starts: Sequence[Start], is_wrong: bool
) -> None:
    assert bool(list(wrongly_not_executed([TriedRequest(REQUEST, tuple(tries), 0, 20)], starts))) is is_wrong
