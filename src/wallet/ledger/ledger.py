"""The ledger: takes commands, lets them gather, and hands each its answer once it is durable.

Nothing waits for a timer: while a batch is in flight the next one gathers, so an idle system has the latency of
one transaction and a busy one has bigger batches.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from wallet.domain.batch import Begun, StillPending
from wallet.domain.commands import Command, SagaStep
from wallet.domain.identifiers import WalletId
from wallet.ledger.answers import Answer, NotExecuted, OutcomeUnknown, Render
from wallet.ledger.audit import AuditRecord
from wallet.ledger.gathering import Gathering
from wallet.ledger.lane import Lane
from wallet.ledger.requests import Phase, Request, Settled
from wallet.ledger.saga import Saga
from wallet.ledger.side_lane import SideLane
from wallet.ledger.transaction import BatchMode

if TYPE_CHECKING:
    from wallet.postgres.connections import Pool

LANE_COUNT: Final = 3
"""Enough that one lane decides while another waits for the disk; more would only make batches smaller."""

GRACE_SECONDS: Final = 1.0
"""How long past its deadline a request may wait to learn what its attempt under way comes to."""


class Ledger:
    """The write path of one process. Start it with `run` in a task group; `stop` lets what waits finish."""

    def __init__(self, dsn: str, pool: "Pool", *, deadline_seconds: float, is_stepwise: bool, render: Render) -> None:
        self._deadline_seconds = deadline_seconds
        self._gathering = Gathering()
        self._mode = BatchMode(is_stepwise)
        self._lanes = [Lane(dsn, name=f"lane {number}", render=render) for number in range(1, LANE_COUNT + 1)]
        self._idle: list[asyncio.Event] = []
        self._side_lane = SideLane(dsn, render=render, mode=self._mode)
        self._saga = Saga(pool, submit=self._submit, deadline_seconds=deadline_seconds)
        self._stopping = False
        self._draining = False

    @property
    def waiting_count(self) -> int:
        """Requests that wait for a lane."""
        return len(self._gathering) + len(self._side_lane)

    async def execute(self, command: Command, audit: AuditRecord) -> Answer:
        """Bring a command to its end and return its answer, byte for byte the same for each retry.

        Raises NotExecuted (certainly nothing happened), OutcomeUnknown (retry the key to learn), or
        CommandFailed (a bug of ours; rolled back).
        """
        deadline = asyncio.get_running_loop().time() + self._deadline_seconds
        settled = await self._submit(command, audit, deadline)
        match settled.decision:
            case Begun(terms):
                return await self._saga.finish(terms, command, deadline)
            case StillPending(key, is_own):
                return await self._saga.finish_pending(key, command, deadline, is_own=is_own)
            case _:
                assert settled.answer is not None
                return settled.answer

    async def run(self) -> None:
        """Run the lanes and the recovery of transfers until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._side_lane.run())
            for lane in self._lanes:
                tasks.create_task(self._run_lane(lane))
            # A transfer that recovery has begun to drive still needs the lanes, so they stop after it.
            await self._saga.recover()
            self._draining = True
            self._side_lane.stop()
            self._wake_all()

    def stop(self) -> None:
        """Take nothing new, finish what waits, then let `run` return."""
        self._stopping = True
        self._saga.stop()

    async def _submit(self, command: Command | SagaStep, audit: AuditRecord | None, deadline: float) -> Settled:
        loop = asyncio.get_running_loop()
        request = Request(command, audit, deadline, loop.create_future())
        if self._stopping and audit is not None:
            raise NotExecuted("The service is stopping.")
        if self._side_lane.holds(request):
            self._side_lane.add([request], set())
        else:
            refusal = self._gathering.refusal_for(request)
            if refusal is not None:
                raise NotExecuted(f"The service is busy: {refusal}.")
            self._gathering.add(request)
            self._wake_one()
        timer = loop.call_at(deadline, _expire, request)
        try:
            return await request.future
        finally:
            timer.cancel()

    def _wake_one(self) -> None:
        if self._idle and self._gathering.has_ready:
            self._idle.pop().set()

    def _wake_all(self) -> None:
        while self._idle:
            self._idle.pop().set()

    async def _run_lane(self, lane: Lane) -> None:
        woken = asyncio.Event()
        try:
            while True:
                batch = self._gathering.take()
                if batch:
                    await lane.process(batch, mode=self._mode, hold_back=self._hold_back)
                    self._gathering.release(batch)
                    self._wake_one()
                elif self._draining and not len(self._gathering):
                    return
                else:
                    woken.clear()
                    self._idle.append(woken)
                    await woken.wait()
        finally:
            await lane.close()

    def _hold_back(self, requests: list[Request], held: set[WalletId]) -> None:
        """Move requests on wallets that someone outside holds, and all that waits behind them, to the side lane."""
        self._side_lane.add([*requests, *self._gathering.take_waiting(held)], held)


def _expire(request: Request) -> None:
    """The deadline has passed. A request under way gets a moment for its attempt to end, as that makes it certain."""
    if request.phase is Phase.WAITING:
        request.fail(NotExecuted("The deadline passed before the command could begin."))
    elif request.phase is Phase.UNKNOWN:
        _give_up(request)
    else:
        asyncio.get_running_loop().call_later(GRACE_SECONDS, _give_up, request)


def _give_up(request: Request) -> None:
    request.fail(OutcomeUnknown("The deadline passed while the command was being committed."))
