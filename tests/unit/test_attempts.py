"""Which keys may still take effect: what is remembered, and when it is forgotten."""

import pytest

from wallet.domain.batch import Decided, Decision, Replayed
from wallet.domain.identifiers import OperationKey, RequestId, WalletId
from wallet.domain.outcomes import KeyReused, Rejected, Rejection
from wallet.ledger.attempts import Attempts
from wallet.ledger.requests import CommandFailed, NotExecuted, OutcomeUnknown

DECIDED = Decided(Rejected(Rejection.INSUFFICIENT_FUNDS, "too little"))


def key(name: str) -> OperationKey:
    return OperationKey(WalletId("alice"), RequestId(name))


A, B, C = key("a"), key("b"), key("c")


def end_with(attempts: Attempts, error: BaseException | None, *keys: OperationKey) -> BaseException | None:
    """How an attempt with these keys ends for its client."""
    try:
        with attempts.attempt(keys):
            if error is not None:
                raise error
    except (NotExecuted, OutcomeUnknown, CommandFailed, ZeroDivisionError, KeyboardInterrupt) as raised:
        return raised
    return None


def answer(attempts: Attempts, keys: list[OperationKey], decisions: list[Decision]) -> None:
    with attempts.attempt(keys) as attempt:
        attempt.decisions = decisions


def test_an_attempt_alone_may_say_that_it_had_no_effect() -> None:
    attempts = Attempts()
    assert isinstance(end_with(attempts, NotExecuted("busy"), A, A), NotExecuted)
    assert not attempts.may_still_commit([A])


def test_an_attempt_beside_another_may_not_and_the_last_one_may() -> None:
    attempts = Attempts()
    first = attempts.attempt([A])
    with first:
        refused = end_with(attempts, NotExecuted("busy."), B, A)
        assert str(refused).startswith("busy. An earlier attempt")
        assert isinstance(refused, OutcomeUnknown)
        assert attempts.may_still_commit([A])
        assert not attempts.may_still_commit([B])
    assert not attempts.may_still_commit([A, B])
    assert isinstance(end_with(attempts, NotExecuted("late"), A), NotExecuted)


@pytest.mark.parametrize("error", [OutcomeUnknown("lost"), ZeroDivisionError(), KeyboardInterrupt()])
def test_an_end_that_says_nothing_leaves_every_key_uncertain(error: BaseException) -> None:
    attempts = Attempts()
    assert end_with(attempts, error, A, B) is error
    assert isinstance(end_with(attempts, NotExecuted("busy"), C, A), OutcomeUnknown)
    assert isinstance(end_with(attempts, NotExecuted("busy"), C), NotExecuted)
    assert isinstance(end_with(attempts, CommandFailed(), B), CommandFailed)
    assert attempts.may_still_commit([B])


@pytest.mark.parametrize(
    ("decision", "is_known"), [(DECIDED, True), (Replayed(A, False), True), (KeyReused("x"), False)]
)
def test_only_the_stored_outcome_of_the_key_makes_it_certain(decision: Decision, is_known: bool) -> None:
    attempts = Attempts()
    end_with(attempts, OutcomeUnknown(), A, B, C)
    answer(attempts, [A, B], [decision, DECIDED])
    assert [attempts.may_still_commit([each]) for each in (A, B, C)] == [not is_known, False, True]


def test_an_attempt_without_its_whole_answer_makes_nothing_certain() -> None:
    attempts = Attempts()
    end_with(attempts, OutcomeUnknown(), A)
    assert end_with(attempts, None, A) is None
    assert attempts.may_still_commit([A])


def test_beyond_the_limit_nothing_is_certain_any_more() -> None:
    attempts = Attempts(uncertain_max=2)
    end_with(attempts, OutcomeUnknown(), A, B)
    end_with(attempts, OutcomeUnknown(), B)
    assert not attempts.may_still_commit([C])
    end_with(attempts, OutcomeUnknown(), C)
    answer(attempts, [A, B, C], [DECIDED] * 3)
    assert isinstance(end_with(attempts, NotExecuted("busy"), key("d")), OutcomeUnknown)


@pytest.mark.parametrize("wallet_id", [A.wallet_id, None])
@pytest.mark.parametrize("request_id", [A.request_id, None])
def test_of_a_request_that_is_refused_early_what_is_not_known_may_be_the_same_key(
    wallet_id: WalletId | None, request_id: RequestId | None
) -> None:
    attempts = Attempts()
    known = (wallet_id, request_id)
    assert not attempts.may_concern(*known)
    with attempts.attempt([A]):
        assert attempts.may_concern(*known)
        assert not attempts.may_concern(WalletId("bob"), None)
        assert not attempts.may_concern(None, RequestId("b"))
    assert not attempts.may_concern(*known)
    end_with(attempts, OutcomeUnknown(), A)
    assert attempts.may_concern(*known)
