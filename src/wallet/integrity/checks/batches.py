"""I5, I9: compares one batch of the journal with the events and outcomes that its digest covers."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec
from asyncpg import Record

from wallet.domain.events import SCHEMA_VERSION, TransferFailed
from wallet.domain.money import format_money
from wallet.domain.outcomes import Rejection
from wallet.integrity.checks.outcomes import EFFECTS, ExpectedEnd, disagreements
from wallet.integrity.findings import Check, Finding, counted
from wallet.wire.digest import DigestedEvent, DigestedOperation, digest_of, encode_payload, serialize_event

ROWS_NAMED_MAX: Final = 5

_CONCLUDING: Final = frozenset({*EFFECTS.values(), TransferFailed.__name__})

_decode_payload: Final = msgspec.json.Decoder().decode


class BatchProof:
    """Checks batches one by one, in any order."""

    def __init__(self) -> None:
        self.digests = Finding(Check.DIGESTS, "batch")
        self.payloads = Finding(Check.PAYLOADS, "event")
        self.outcomes = Finding(Check.OUTCOMES, "outcome")

    def prove(
        self,
        batch: Record,
        events: Sequence[Record],
        operations: Sequence[Record],
        credited: Mapping[UUID, Decimal],
    ) -> None:
        """Compare a journal row with its events, in ordinal order, and with its final operations.

        `credited` contains the receivers' balances after the transfers that the batch completed.
        """
        self.digests.checked_count += 1
        self.payloads.checked_count += len(events)
        self.outcomes.checked_count += len(operations)
        payloads = [read_payload(event["payload"]) for event in events]
        for event, payload in zip(events, payloads, strict=True):
            self._prove_payload(event, payload)
        if [event["ordinal"] for event in events] != list(range(batch["event_count"])):
            self._blame_batch(batch, f"{counted(batch['event_count'], 'event')}, ordinals from 0", _ordinals(events))
        elif not events and not operations:
            self._blame_batch(batch, "at least one event or outcome", "neither")
        else:
            self._prove_digest(batch, events, payloads, operations)
        concluded = self._prove_outcomes(batch, events, payloads, operations)
        for operation, expected, found in disagreements(concluded, credited):
            self.outcomes.add_fault("operations", _name_of_operation(operation), expected=expected, found=found)

    def _prove_payload(self, event: Record, payload: Any) -> None:
        transfer_id = event["transfer_id"]
        expected = {
            "walletId": event["wallet_id"],
            "amount": format_money(event["amount"]),
            "newBalance": format_money(event["balance_after"]),
            "transferId": None if transfer_id is None else str(transfer_id),
        }
        if event["schema_version"] != SCHEMA_VERSION:
            expected_version, found_version = (
                f"schema_version {SCHEMA_VERSION}",
                f"schema_version {event['schema_version']}",
            )
            self.payloads.add_fault("events", _name_of_event(event), expected=expected_version, found=found_version)
        found = {name: payload.get(name) for name in expected} if isinstance(payload, dict) else {}
        if found != expected:
            different = [name for name in expected if found.get(name) != expected[name]]
            self.payloads.add_fault(
                "events",
                _name_of_event(event),
                expected="payload with " + _shown(expected, different),
                found=_shown(found, different) if found else "a payload that is not a JSON object",
            )

    def _prove_digest(
        self, batch: Record, events: Sequence[Record], payloads: Sequence[Any], operations: Sequence[Record]
    ) -> None:
        digest = _digest_of(events, payloads, operations)
        if digest != batch["digest"]:
            given = "no digest" if digest is None else f"digest {digest.hex()}"
            self._blame_batch(
                batch,
                f"digest {batch['digest'].hex()}",
                f"{given} from {counted(len(events), 'event')} and {counted(len(operations), 'outcome')}: "
                f"one was changed, added or removed ({_names_of([*events, *operations])})",
            )

    def _prove_outcomes(
        self, batch: Record, events: Sequence[Record], payloads: Sequence[Any], operations: Sequence[Record]
    ) -> list[ExpectedEnd]:
        found: dict[tuple[str, object], tuple[Record, Any]] = {}
        concluded = list[ExpectedEnd]()
        for event, payload in zip(events, payloads, strict=True):
            if event["type"] in _CONCLUDING:
                key = event["wallet_id"], payload.get("requestId") if isinstance(payload, dict) else None
                if key in found:
                    expected = f"the only effect of request {key[1]}"
                    self._add_event_fault(event, expected, f"a second one, besides {_name_of_event(found[key][0])}")
                found[key] = event, payload
        for operation in operations:
            caused, payload = found.pop((operation["wallet_id"], operation["request_id"]), (None, {}))
            if operation["kind"] not in EFFECTS:
                self.outcomes.add_fault(
                    "operations",
                    _name_of_operation(operation),
                    expected=f"a kind that this version knows: {', '.join(EFFECTS)}",
                    found=f"kind {operation['kind']}",
                )
            elif (None if caused is None else caused["type"]) != (effect := _effect_of(operation)):
                self.outcomes.add_fault(
                    "operations",
                    _name_of_operation(operation),
                    expected=f"{'no event' if effect is None else effect} in batch {batch['batch_id']}",
                    found="none" if caused is None else f"{caused['type']}, {_name_of_event(caused)}",
                )
            else:
                concluded.append(ExpectedEnd(operation, caused, payload))
        for (_, request_id), (event, _) in found.items():
            self._add_event_fault(event, f"the outcome of request {request_id} in batch {batch['batch_id']}", "none")
        return concluded

    def _add_event_fault(self, event: Record, expected: str, found: str) -> None:
        self.outcomes.add_fault("events", _name_of_event(event), expected=expected, found=found)

    def _blame_batch(self, batch: Record, expected: str, found: str) -> None:
        self.digests.add_fault("journal", name_of_batch(batch), expected=expected, found=found)


def name_of_batch(batch: Record) -> str:
    """Returns a name by which a reader can find the batch."""
    position = batch.get("position")
    return f"{'unsealed' if position is None else f'position {position}'}, batch {batch['batch_id']}"


def _effect_of(operation: Record) -> str | None:
    """Returns the type of the single event that records the outcome, or None if nothing happened."""
    if operation["success"]:
        return EFFECTS[operation["kind"]]
    return TransferFailed.__name__ if operation["refusal"] == Rejection.TRANSFER_FAILED else None


def _ordinals(events: Sequence[Record]) -> str:
    if not events:
        return "no events"
    shown = ", ".join(f"{event['ordinal']} ({_name_of_event(event)})" for event in events[:ROWS_NAMED_MAX])
    more = len(events) - ROWS_NAMED_MAX
    return f"{counted(len(events), 'event')}, ordinals {shown}" + (f" and {more} more" if more > 0 else "")


def _shown(fields: dict[str, object], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {fields.get(name)}" for name in names)


def _names_of(rows: Sequence[Record]) -> str:
    """Returns the names of the first rows of a batch; its digest does not show which of them is wrong."""
    names = [_name_of_event(row) if "version" in row else _name_of_operation(row) for row in rows[:ROWS_NAMED_MAX]]
    more = len(rows) - len(names)
    return "; ".join(names) + (f"; and {more} more" if more else "")


def _name_of_event(event: Record) -> str:
    return f"wallet {event['wallet_id']}, version {event['version']}"


def _name_of_operation(operation: Record) -> str:
    return f"wallet {operation['wallet_id']}, request {operation['request_id']}"


def read_payload(text: str) -> Any:
    """Returns an event's payload, or None if it can't be read."""
    try:
        return _decode_payload(text)
    except (msgspec.DecodeError, RecursionError):
        # PostgreSQL's JSON may contain values that we never stored, such as 1e400.
        return None


def _digest_of(events: Sequence[Record], payloads: Sequence[Any], operations: Sequence[Record]) -> bytes | None:
    """Returns the digest as the write path computed it, or None if a field is null that we never store as null."""
    try:
        return digest_of(map(_serialized_event, events, payloads), map(_digested_operation, operations))
    except (TypeError, AttributeError):
        return None


def _serialized_event(event: Record, payload: Any) -> bytes:
    _, _, bucket, wallet_id, version, event_id, event_type, occurred_at, *rest = event
    amount, balance_after, transfer_id, api_audit_id, *_ = rest
    row = DigestedEvent(
        bucket,
        wallet_id,
        version,
        event_id,
        event_type,
        occurred_at,
        format_money(amount),
        format_money(balance_after),
        transfer_id,
        api_audit_id,
        encode_payload(payload),
    )
    return serialize_event(row)


def _digested_operation(operation: Record) -> DigestedOperation:
    return DigestedOperation(*tuple(operation)[1:])
