"""The ledger: accepts commands, gathers them into batches, and returns each answer when its batch is durable.

No batch waits for a timer. While a batch is in flight, commands gather for the next one. So an idle system has the
latency of one database transaction, and a busy one has bigger batches.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, assert_never

from wallet.domain.batch import Begun, Concluded, Credited, Decided, Decision, Executable, Replayed, StillPending
from wallet.domain.commands import Command
from wallet.domain.identifiers import RequestId, WalletId
from wallet.domain.outcomes import KeyReused
from wallet.ledger.attempts import Attempts
from wallet.ledger.bulk_turns import BulkTurns
from wallet.ledger.deciding import KnownWallets
from wallet.ledger.gathering import Gathering
from wallet.ledger.lane import Lane, SideLane
from wallet.ledger.requests import (
    Answer,
    BulkAnswer,
    Completed,
    NotExecuted,
    OutcomeUnknown,
    Phase,
    Render,
    Request,
    RequestKind,
)
from wallet.ledger.saga import Recovery, Saga
from wallet.ledger.transaction import BatchMode
from wallet.postgres.connections import Pool
from wallet.runtime.loop import TIMER_SLACK_SECONDS
from wallet.runtime.metrics import Gauge
from wallet.trail.records import TrailRecord

LANE_COUNT: Final = 3
"""Enough for one lane to decide while another waits for the disk. More lanes would only make the batches smaller."""

SHARED_LANE_COUNT: Final = 2
"""The number of lanes in each of several processes. These run in parallel anyway, so two are enough: one may block."""

SAGAS_PER_REQUEST_MAX: Final = 64
"""How many stepwise transfers of one request are driven at the same time."""

GRACE_SECONDS: Final = 1.0
"""How long after its deadline a request that is being executed may still wait for its result."""

LOOP_TURNS_TO_JOIN: Final = 4
"""The event loop turns from the end of a bulk request until the next one is in the queue.

The first is answered, its turn is passed on, the next request is woken, and it joins the queue.
"""
QUEUE_DEPTH: Final = Gauge("wallet_ledger_queue_depth", "Commands waiting for a batch.", process="api")


class Ledger:
    """The write path of one process. Start `run` in a task group. After `stop`, it still finishes waiting requests."""

    def __init__(
        self,
        dsn: str,
        pool: Pool,
        *,
        deadline_seconds: float,
        clock_difference_max_seconds: float,
        is_stepwise: bool,
        render: Render,
        lane_count: int = LANE_COUNT,
    ) -> None:
        self._deadline_seconds = deadline_seconds
        self._gathering = Gathering()
        self._attempts = Attempts()
        self._bulk_turns = BulkTurns()
        self._mode = BatchMode(is_stepwise, clock_difference_max_seconds)
        known = KnownWallets()
        self._lanes = [
            Lane(dsn, name=f"lane {number}", render=render, known=known) for number in range(1, lane_count + 1)
        ]
        self._bulk_lane = Lane(dsn, name="bulk lane", render=render, known=known)
        self._idle: list[asyncio.Event] = []
        self._idle_bulk: list[asyncio.Event] = []
        self._side_lane = SideLane(dsn, render=render, mode=self._mode, known=known)
        self._saga = Saga(pool, submit=self._submit_step)
        self._recovery = Recovery(pool, self._saga.recover, deadline_seconds=deadline_seconds)
        self._single_count = 0
        self._stopping = False
        self._draining = False

    @property
    def waiting_count(self) -> int:
        """How many requests wait for a lane, or for their turn to join the queue."""
        return len(self._gathering) + len(self._side_lane) + self._bulk_turns.waiting_count

    async def execute(self, command: Command, record: TrailRecord) -> Answer:
        """Execute a command and return its answer, which is the same for each retry, byte for byte.

        Raises NotExecuted (no attempt of this process with the key can still take effect), OutcomeUnknown (a retry with
        the same key returns the outcome), or CommandFailed (a bug of ours; the command was rolled back).
        """
        deadline = asyncio.get_running_loop().time() + self._deadline_seconds
        with self._attempts.attempt((command.key,)) as attempt:
            completed = await self._submit(command, record, deadline)
            answer = await self._finish(command, completed.decisions[0], completed.answers[0], deadline)
            attempt.decisions = completed.decisions
        return answer

    async def execute_bulk(
        self, commands: Sequence[Command], record: TrailRecord, *, client: str, is_atomic: bool
    ) -> BulkAnswer:
        """Execute the commands of one request, in order and in one batch. Raises the same errors as `execute`.

        Independent: each command has its own outcome. Atomic: all commands take effect, or none; their keys must be
        different, and transfers must not be stepwise. In stepwise mode, the transfers of a request are finished
        concurrently, after the other commands. An exception then means that the client must send the whole request
        again.

        Each client may have a few bulk requests under way; its further ones wait for their turn. A client is an API key
        or, without keys, an address.
        """
        deadline = asyncio.get_running_loop().time() + self._deadline_seconds
        kind = RequestKind.ATOMIC if is_atomic else RequestKind.INDEPENDENT
        with self._attempts.attempt(tuple(command.key for command in commands)) as attempt:
            async with self._bulk_turns.turn(client, deadline, len(commands)):
                completed = await self._enqueue(tuple(commands), record, deadline, kind)
                answer = await self._finish_bulk(commands, completed, deadline)
            attempt.decisions = completed.decisions
        return answer

    def may_concern(self, wallet_id: WalletId | None, request_id: RequestId | None) -> bool:
        """Returns whether a request with this wallet or key may be one whose earlier attempt can still take effect.

        Code that refuses a request before it reaches the ledger must call this first. If it returns True, the answer
        must be `outcome_unknown`.
        """
        return self._attempts.may_concern(wallet_id, request_id)

    async def _finish_bulk(self, commands: Sequence[Command], completed: Completed, deadline: float) -> BulkAnswer:
        if completed.refusal is not None:
            return BulkAnswer((), completed.refusal)
        finishing = asyncio.Semaphore(SAGAS_PER_REQUEST_MAX)

        async def finish(command: Command, decision: Decision, answer: Answer | None) -> Answer:
            async with finishing:
                return await self._finish(command, decision, answer, deadline)

        if None not in completed.answers:
            return BulkAnswer(tuple(filter(None, completed.answers)))
        ends = map(finish, commands, completed.decisions, completed.answers)
        return BulkAnswer(tuple(await asyncio.gather(*ends)))

    async def _finish(self, command: Command, decision: Decision, answer: Answer | None, deadline: float) -> Answer:
        """Returns the answer. If the command began a stepwise transfer, drives the transfer to its end first."""
        match decision:
            case Begun(terms):
                return await self._saga.finish(terms, command, deadline)
            case StillPending(key, is_own):
                return await self._saga.finish_pending(key, command, deadline, is_own=is_own)
            case Decided() | Credited() | Concluded() | Replayed() | KeyReused():
                assert answer is not None
                return answer
            case _:
                assert_never(decision)

    async def run(self) -> None:
        """Run the lanes and the recovery of transfers until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._side_lane.run())
            for lane in self._lanes:
                tasks.create_task(self._run_lane(lane, is_bulk=False))
            tasks.create_task(self._run_lane(self._bulk_lane, is_bulk=True))
            # A transfer that the recovery is driving still needs the lanes, so they stop after the recovery.
            await self._recovery.run()
            self._draining = True
            self._side_lane.stop()
            self._wake_all()

    def stop(self) -> None:
        """Accept no new requests, finish the waiting ones, then let `run` return."""
        self._stopping = True
        self._recovery.stop()

    async def _submit(self, command: Executable, record: TrailRecord | None, deadline: float) -> Completed:
        return await self._enqueue((command,), record, deadline, RequestKind.SINGLE)

    async def _submit_step(self, step: Executable, record: TrailRecord | None, deadline: float) -> Completed:
        """Submit a step of a transfer. If it fails, its key stays uncertain, because the transfer will still end."""
        keys = (step.key,)
        self._attempts.begin(keys)
        try:
            return await self._submit(step, record, deadline)
        except BaseException:
            self._attempts.note_unknown(keys)
            raise
        finally:
            self._attempts.end(keys)

    async def _enqueue(
        self, commands: tuple[Executable, ...], record: TrailRecord | None, deadline: float, kind: RequestKind
    ) -> Completed:
        loop = asyncio.get_running_loop()
        request = Request(commands, record, deadline, loop.create_future(), kind)
        if self._stopping and record is not None:
            raise NotExecuted("The service is stopping.")
        if self._side_lane.must_take(request):
            self._side_lane.add([request], set())
        else:
            refusal = self._gathering.refusal_for(request)
            if refusal is not None:
                raise NotExecuted(f"The service is busy: {refusal}.")
            self._gathering.add(request)
            self._wake()
        timer = loop.call_at(deadline, _expire, request)
        try:
            return await request.future
        finally:
            timer.cancel()
            if request.is_bulk:
                # An expired request must not stay in the queue and block the requests behind it.
                self._gathering.cancel(request)
                self._wake_all() if self._draining else self._wake()

    def _wake(self) -> None:
        """Wake an idle lane of each kind for which a request is ready."""
        for idle, is_bulk in ((self._idle, False), (self._idle_bulk, True)):
            if idle and self._gathering.has_ready(is_bulk=is_bulk):
                idle.pop().set()

    def _wake_all(self) -> None:
        for idle in (self._idle, self._idle_bulk):
            while idle:
                idle.pop().set()

    async def _run_lane(self, lane: Lane, *, is_bulk: bool) -> None:
        woken, loop = asyncio.Event(), asyncio.get_running_loop()
        try:
            while True:
                batch = self._gathering.take(is_bulk=is_bulk)
                if batch:
                    began_at_seconds, singles = loop.time(), self._single_count
                    await lane.process(batch, mode=self._mode, defer=self._defer)
                    self._gathering.release(batch)
                    self._wake()
                    if not is_bulk:
                        self._single_count += len(batch)
                    else:
                        self._bulk_turns.note_batch(
                            loop.time() - began_at_seconds,
                            commands=sum(len(request.commands) for request in batch),
                            singles=self._single_count - singles,
                        )
                        if self._gathering.rest_end_seconds is not None:
                            loop.call_at(self._gathering.rest_end_seconds + TIMER_SLACK_SECONDS, self._wake)
                        # Requests that get their turn now can join the next batch instead of the one after it.
                        for _ in range(LOOP_TURNS_TO_JOIN):
                            await asyncio.sleep(0)
                elif self._draining and not len(self._gathering):
                    # Other lanes may have found the queue not empty while this lane was working, and may now be idle.
                    self._wake_all()
                    return
                else:
                    woken.clear()
                    (self._idle_bulk if is_bulk else self._idle).append(woken)
                    await woken.wait()
        finally:
            lane.close()

    def _defer(self, requests: list[Request], locked_elsewhere: set[WalletId]) -> None:
        """Move requests on wallets that another session has locked, and all requests behind them, to the side lane."""
        self._side_lane.add([*requests, *self._gathering.take_waiting(locked_elsewhere)], locked_elsewhere)


def _expire(request: Request) -> None:
    """End a request whose deadline has passed. A running one gets GRACE_SECONDS more, so that its outcome is known."""
    if request.phase is Phase.WAITING:
        request.fail(NotExecuted("The deadline passed before the command could begin."))
    elif request.phase is Phase.UNKNOWN:
        _give_up(request)
    else:
        asyncio.get_running_loop().call_later(GRACE_SECONDS, _give_up, request)


def _give_up(request: Request) -> None:
    request.fail(OutcomeUnknown("The deadline passed while the command was being committed."))
