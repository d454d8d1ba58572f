"""The side lane when it is full: what it says of a request depends on how far the request has come."""

import asyncio

import pytest

from tests.support.ledger import audit_of, deposit
from wallet.api.contract.reply import RENDER
from wallet.ledger.deciding import KnownWallets
from wallet.ledger.gathering import WAITING_PER_WALLET_MAX
from wallet.ledger.lane import SideLane
from wallet.ledger.requests import NotExecuted, OutcomeUnknown, Phase, Request
from wallet.ledger.transaction import BatchMode


def request(phase: Phase) -> Request:
    command = deposit("alice", 1)
    return Request((command,), audit_of(command), 0.0, asyncio.get_running_loop().create_future(), phase=phase)


@pytest.mark.parametrize(("phase", "error"), [(Phase.WAITING, NotExecuted), (Phase.UNKNOWN, OutcomeUnknown)])
async def test_a_request_whose_commit_was_sent_is_not_refused_as_not_executed(
    phase: Phase, error: type[Exception]
) -> None:
    mode = BatchMode(stepwise=False, clock_difference_max_seconds=60.0)
    lane = SideLane("", render=RENDER, mode=mode, known=KnownWallets())
    last = request(phase)
    lane.add([*(request(Phase.WAITING) for _ in range(WAITING_PER_WALLET_MAX)), last], set(last.wallet_ids))
    assert isinstance(last.future.exception(), error)
