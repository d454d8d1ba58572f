"""The atomic request: what its operations would give one after the other, or no trace at all."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tests.property.test_batch import commands, fresh_state
from wallet.domain.batch import (
    AtomicRefusal,
    BatchState,
    Decided,
    Replayed,
    atomic_fingerprints,
    decide_atomic,
    decide_batch,
)
from wallet.domain.commands import Command
from wallet.domain.outcomes import KeyReused, Rejected


def with_different_keys(batch: Sequence[Command]) -> list[Command]:
    return list({command.key: command for command in batch}.values())


requests = commands().map(with_different_keys)


@given(before=commands(), request=requests)
def test_all_of_it_takes_effect_as_one_after_the_other_or_none_of_it(
    before: list[Command], request: list[Command]
) -> None:
    together, alone = state_after(before, request), state_after(before, request)
    wallets, event_count = dict(together.wallets), len(together.events)
    decided = decide_atomic(request, together)
    outcomes = [decision.outcome for decision in decide_batch(request, alone) if isinstance(decision, Decided)]
    refused = [AtomicRefusal(index, each) for index, each in enumerate(outcomes) if isinstance(each, Rejected)]
    if refused:
        assert decided == refused[0]
        assert together.wallets == wallets
        assert len(together.events) == event_count
    else:
        assert decided == [Decided(outcome) for outcome in outcomes]
        assert together.wallets == alone.wallets
        assert together.events == alone.events


@given(request=requests, data=st.data())
def test_the_same_request_again_is_a_replay_and_any_other_with_its_keys_is_refused(
    request: list[Command], data: st.DataObject
) -> None:
    state = fresh_state()
    decide_atomic(request, state)
    wallets, event_count = dict(state.wallets), len(state.events)
    assert decide_atomic(request, state) == [Replayed(command.key, is_own=True) for command in request]
    part = data.draw(st.lists(st.sampled_from(request), min_size=1, unique_by=lambda command: command.key))
    if part != request:
        refusal = decide_atomic(part, state)
        assert isinstance(refusal, AtomicRefusal)
        assert isinstance(refusal.outcome, KeyReused)
        assert all(isinstance(decision, KeyReused) for decision in decide_batch(part, state))
    assert state.wallets == wallets
    assert len(state.events) == event_count


@given(request=requests.filter(lambda request: len(request) > 1))
def test_a_mix_of_known_and_unknown_keys_is_refused_by_the_first_that_does_not_match(request: list[Command]) -> None:
    state = fresh_state()
    decide_batch(request[-1:], state)
    event_count = len(state.events)
    assert decide_atomic(request, state) == AtomicRefusal(0, KeyReused(""))
    assert len(state.events) == event_count


@given(one=requests, other=requests)
def test_fingerprints_are_the_same_only_for_the_same_request(one: list[Command], other: list[Command]) -> None:
    def spelled(request: list[Command]) -> list[tuple[object, ...]]:
        return [
            (type(each), each.wallet_id, each.request_id, each.amount, getattr(each, "to_wallet_id", None))
            for each in request
        ]

    same = spelled(one) == spelled(other)
    assert (atomic_fingerprints(one) == atomic_fingerprints(other)) == same
    assert len(set(atomic_fingerprints(one))) == len(one)


def state_after(before: list[Command], request: list[Command]) -> BatchState:
    """A state in which other requests have had their outcomes, none of them under a key of this one."""
    keys = {command.key for command in request}
    state = fresh_state()
    decide_batch([command for command in before if command.key not in keys], state)
    return state
