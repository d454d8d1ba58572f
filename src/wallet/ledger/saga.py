"""The stepwise transfer: drives a debited transfer to its end, for its request or for recovery.

Each step is a command of its own through the lanes. The receiver's word (transfer_credits) alone decides, so any
number of drivers of one transfer agree; nobody compensates on a time-out, an error or its own judgement.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from wallet.domain.batch import Credited, Executable
from wallet.domain.commands import Command, ConcludeTransfer, CreditTransfer
from wallet.domain.events import TransferTerms
from wallet.domain.identifiers import ApiAuditId, OperationKey, RequestId, bucket_of
from wallet.ledger.answers import Answer, CommandFailed, NotExecuted, OutcomeUnknown
from wallet.ledger.requests import Completed
from wallet.ledger.statements import SQL
from wallet.postgres.connections import Pool
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.runtime.failpoints import FailpointRaised, failpoint
from wallet.trail.records import TrailRecord

Submit = Callable[[Executable, TrailRecord | None, float], Awaitable[Completed]]


class Saga:
    """Drives transfers through their steps 2 and 3."""

    def __init__(self, pool: Pool, *, submit: Submit) -> None:
        self._pool = pool
        self._submit = submit

    async def finish(self, terms: TransferTerms, command: Command, deadline: float) -> Answer:
        """Drive a debited transfer to its end and return its answer.

        Raises OutcomeUnknown if that can't be done before the deadline: the debit is durable, so recovery or a
        retry of the key will finish it.
        """
        return await self._drive(
            terms,
            request_id=command.request_id,
            api_audit_id=command.api_audit_id,
            deadline=deadline,
        )

    async def finish_pending(self, key: OperationKey, command: Command, deadline: float, *, is_own: bool) -> Answer:
        """Drive the transfer of a key that was sent before; the retry's answer is a replay."""
        try:
            row = await self._pending_transfer(key)
        except DATABASE_ERRORS as error:
            raise OutcomeUnknown("The transfer could not be read.") from error
        answer = await self._drive(
            _terms_of(row),
            request_id=key.request_id,
            api_audit_id=row["api_audit_id"],
            deadline=deadline,
        )
        return Answer(answer.status, answer.body, replayed=not is_own)

    async def recover(self, row: Any, deadline: float) -> Answer:
        """Drive the transfer of this row to its end for nobody in particular; raises as `finish` does."""
        return await self._drive(
            _terms_of(row),
            request_id=row["request_id"],
            api_audit_id=row["api_audit_id"],
            deadline=deadline,
        )

    async def _drive(
        self,
        terms: TransferTerms,
        *,
        request_id: RequestId,
        api_audit_id: ApiAuditId,
        deadline: float,
    ) -> Answer:
        try:
            await failpoint("saga.after_debit")
            credit = CreditTransfer(terms=terms, request_id=request_id, api_audit_id=api_audit_id)
            [credited] = (await self._submit(credit, None, deadline)).decisions
            assert isinstance(credited, Credited)
            await failpoint("saga.after_credit")
            end = ConcludeTransfer(
                terms=terms,
                request_id=request_id,
                api_audit_id=api_audit_id,
                credit=credited.outcome,
            )
            [answer] = (await self._submit(end, None, deadline)).answers
        except (NotExecuted, CommandFailed, FailpointRaised) as error:
            # The debit is durable: to say "not executed" now would be a lie.
            raise OutcomeUnknown("The transfer was begun and has not ended yet.") from error
        assert answer is not None
        return Answer(answer.status, answer.body)

    async def _pending_transfer(self, key: OperationKey) -> Any:
        return await self._pool.fetchrow(SQL.pending_transfer, bucket_of(key.wallet_id), *key)


def _terms_of(row: Any) -> TransferTerms:
    return TransferTerms(row["transfer_id"], row["from_wallet_id"], row["to_wallet_id"], row["amount"], row["currency"])
