"""Derives from the answers the outcome of each key, and the effects, totals and balances that must follow."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, unique
from typing import Any, Final

from wallet.stress.client import decode_json
from wallet.stress.exchanges import ServiceAnswer, TriedRequest
from wallet.stress.operations import Key, Operation, OperationKind, WalletId

ZERO: Final = Decimal("0.0000")
FAILED: Final = "failed"
"""The status in the answer of a transfer that was accepted and then reversed."""


@unique
class Verdict(Enum):
    """The outcome of a key, as the client received it."""

    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class KeyOutcome:
    """One key: its operation, and every definite answer it got, in order."""

    operation: Operation
    answers: tuple[ServiceAnswer, ...]
    verdict: Verdict
    transfer_id: str | None


@dataclass(frozen=True, slots=True)
class ExpectedEffect:
    """The amount by which a wallet's balance rose (positive) or fell (negative)."""

    wallet_id: WalletId
    amount: Decimal

    def __str__(self) -> str:
        """Returns the effect in words."""
        return f"{self.amount:+.4f} on {self.wallet_id}"


@dataclass(frozen=True, slots=True)
class ExpectedTotals:
    """A wallet's four sums."""

    total_deposited: Decimal = ZERO
    total_withdrawn: Decimal = ZERO
    total_transferred_out: Decimal = ZERO
    total_transferred_in: Decimal = ZERO

    @property
    def balance(self) -> Decimal:
        """Returns the balance that follows from them."""
        return self.total_deposited - self.total_withdrawn - self.total_transferred_out + self.total_transferred_in


TOTAL_NAMES: Final = {
    "totalDeposited": "total_deposited",
    "totalWithdrawn": "total_withdrawn",
    "totalTransferredOut": "total_transferred_out",
    "totalTransferredIn": "total_transferred_in",
}
"""The field name of each total in the stats route → our attribute."""


def outcomes_of(exchanges: Iterable[TriedRequest]) -> dict[Key, KeyOutcome]:
    """Returns the outcome of every key that was sent, in the order in which each was first drawn."""
    by_key: defaultdict[Key, list[TriedRequest]] = defaultdict(list)
    for exchange in sorted(exchanges, key=lambda exchange: exchange.request.number):
        by_key[exchange.request.operation.key].append(exchange)
    return {key: _outcome_of(same_key) for key, same_key in by_key.items()}


def effects_of(operation: Operation) -> Counter[ExpectedEffect]:
    """Returns the effects that the operation has on balances, once, if it succeeds."""
    amount = operation.amount
    match operation.kind:
        case OperationKind.DEPOSIT:
            return Counter([ExpectedEffect(operation.wallet_id, amount)])
        case OperationKind.WITHDRAW:
            return Counter([ExpectedEffect(operation.wallet_id, -amount)])
        case OperationKind.TRANSFER:
            assert operation.to_wallet_id is not None
            return Counter(
                [ExpectedEffect(operation.wallet_id, -amount), ExpectedEffect(operation.to_wallet_id, amount)]
            )


def totals_of(outcomes: Mapping[Key, KeyOutcome], also: Collection[Key] = ()) -> dict[WalletId, ExpectedTotals]:
    """Returns each wallet's totals: the operations that succeeded, and the keys in `also`, whose answers were lost."""
    sums: defaultdict[WalletId, dict[str, Decimal]] = defaultdict(lambda: defaultdict(lambda: ZERO))
    for key, outcome in outcomes.items():
        if outcome.verdict is not Verdict.SUCCEEDED and key not in also:
            continue
        operation = outcome.operation
        match operation.kind:
            case OperationKind.DEPOSIT:
                sums[operation.wallet_id]["total_deposited"] += operation.amount
            case OperationKind.WITHDRAW:
                sums[operation.wallet_id]["total_withdrawn"] += operation.amount
            case OperationKind.TRANSFER:
                assert operation.to_wallet_id is not None
                sums[operation.wallet_id]["total_transferred_out"] += operation.amount
                sums[operation.to_wallet_id]["total_transferred_in"] += operation.amount
    return {wallet_id: ExpectedTotals(**each) for wallet_id, each in sums.items()}


def _outcome_of(exchanges: list[TriedRequest]) -> KeyOutcome:
    by_time = sorted(exchanges, key=lambda exchange: exchange.ended_at_seconds)
    answers = tuple(exchange.answer for exchange in by_time if exchange.answer is not None)
    verdict, transfer_id = Verdict.REFUSED if answers else Verdict.UNKNOWN, None
    for answer in answers:
        if answer.is_success:
            fields = _fields_of(answer)
            if isinstance(fields.get("transferId"), str):
                transfer_id = fields["transferId"]
            if fields.get("status") != FAILED:
                verdict = Verdict.SUCCEEDED
    return KeyOutcome(exchanges[0].request.operation, answers, verdict, transfer_id)


def _fields_of(answer: ServiceAnswer) -> dict[str, Any]:
    try:
        value = decode_json(answer.body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
