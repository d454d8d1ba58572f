"""I5: compares an operation (its fingerprint and its stored answer) with the events of its batch.

The digest of a batch shows that an operation was changed. This check shows what the operation should contain, even if
the digest and the chain were changed to match.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec
from asyncpg import Record

from wallet.domain.batch import ATOMIC, atomic_fingerprints
from wallet.domain.commands import COMMANDS, Command
from wallet.domain.money import format_money
from wallet.domain.transfer import TransferStatus

EFFECTS: Final = {kind: command.success.__name__ for kind, command in COMMANDS.items()}
"""Kind of operation → the type of the event that a success has in the batch of its outcome."""

_AMOUNT: Final = r"(0|[1-9][0-9]{0,15})\.[0-9]{4}"
_REFUSED: Final = {
    kind: re.compile(f"{kind}:{_AMOUNT}:{command.counterparty_pattern}") for kind, command in COMMANDS.items()
}
_ATOMIC: Final = re.compile(f"{ATOMIC}:[0-9a-f]{{64}}:(0|[1-9][0-9]{{0,8}})")

_decode: Final = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class ExpectedEnd:
    """An operation with the event that completed it; `event` is None for a refusal."""

    operation: Record
    event: Record | None
    payload: Mapping[str, Any]


def disagreements(
    concluded: Sequence[ExpectedEnd], credited: Mapping[UUID, Decimal]
) -> Iterator[tuple[Record, str, str]]:
    """Yields each operation that disagrees with its event, with the expected and the found value.

    `credited` contains the receivers' balances after the transfers, as far as they are known.
    """
    for each in concluded:
        found = _unlike_fingerprint(each) or _unlike_answer(each, credited)
        if found is not None:
            yield each.operation, *found
    yield from _unlike_requests(concluded)


def command_of(each: ExpectedEnd) -> Command | None:
    """Returns the command that the event implies."""
    operation, event = each.operation, each.event
    if event is None:
        return None
    return COMMANDS[operation["kind"]].recalled(
        each.payload,
        event["transfer_id"],
        wallet_id=operation["wallet_id"],
        request_id=operation["request_id"],
        api_audit_id=operation["api_audit_id"],
        amount=event["amount"],
    )


def _unlike_fingerprint(each: ExpectedEnd) -> tuple[str, str] | None:
    operation, fingerprint = each.operation, each.operation["fingerprint"]
    if each.event is not None and each.event["api_audit_id"] != operation["api_audit_id"]:
        return f"audit id {each.event['api_audit_id']}, as its event has it", f"audit id {operation['api_audit_id']}"
    if _ATOMIC.fullmatch(fingerprint):
        return None
    command = command_of(each)
    if command is not None:
        expected = command.fingerprint
        if fingerprint != expected:
            return f"fingerprint {expected}, as its event has it", f"fingerprint {fingerprint}"
    elif not _REFUSED[operation["kind"]].fullmatch(fingerprint):
        return f"the fingerprint of a {operation['kind']}", f"fingerprint {fingerprint}"
    return None


def _unlike_answer(each: ExpectedEnd, credited: Mapping[UUID, Decimal]) -> tuple[str, str] | None:
    """Compares the fields that the stored answer must have; the digest protects all other fields."""
    operation = each.operation
    if operation["success"] != (operation["status"] == _CREATED):
        return f"status {_CREATED} for a success alone", f"status {operation['status']}"
    expected = _expected_answer(each, credited)
    try:
        answer = _decode(operation["response"])
    except (msgspec.DecodeError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        return f"an answer with {_shown(expected, expected)}", "an answer that is no JSON object"
    different = [name for name, value in expected.items() if answer.get(name) != value]
    if different:
        return f"an answer with {_shown(expected, different)}", f"an answer with {_shown(answer, different)}"
    reason = each.payload.get("reason") if operation["refusal"] and each.event is not None else None
    if reason is not None and str(reason) not in str(answer.get("detail")):
        return f"an answer with the reason {reason}", f"an answer with detail {answer.get('detail')}"
    return None


def _expected_answer(each: ExpectedEnd, credited: Mapping[UUID, Decimal]) -> dict[str, object]:
    operation, event = each.operation, each.event
    asked: dict[str, object] = {"requestId": operation["request_id"]}
    if not operation["success"] or event is None:
        # The refusal of an atomic request names the key of the operation that was refused.
        refused = {"code": operation["refusal"], "status": operation["status"]}
        return refused if operation["fingerprint"].startswith(f"{ATOMIC}:") else refused | asked
    balance = format_money(event["balance_after"])
    if operation["kind"] != "transfer":
        created = event["version"] == _FIRST_CREDIT
        return asked | {"walletId": operation["wallet_id"], "balance": balance, "created": created}
    answer = asked | {
        "transferId": str(event["transfer_id"]),
        "fromWalletId": operation["wallet_id"],
        "toWalletId": each.payload.get("toWalletId"),
        "amount": format_money(event["amount"]),
        "status": TransferStatus.COMPLETED.value,
        "fromBalance": balance,
    }
    if event["transfer_id"] in credited:
        answer["toBalance"] = format_money(credited[event["transfer_id"]])
    return answer


def _unlike_requests(concluded: Sequence[ExpectedEnd]) -> Iterator[tuple[Record, str, str]]:
    """Yields the faults of atomic requests: all their operations must exist, and the fingerprints must cover what they
    did.
    """
    requests: dict[str, list[tuple[int, ExpectedEnd]]] = {}
    for each in concluded:
        if _ATOMIC.fullmatch(each.operation["fingerprint"]):
            _, digest, index = each.operation["fingerprint"].split(":")
            requests.setdefault(digest, []).append((int(index), each))
    for members in requests.values():
        members.sort(key=lambda member: member[0])
        first = members[0][1].operation
        if [index for index, _ in members] != list(range(len(members))):
            indexes = ", ".join(str(index) for index, _ in members[:5])
            yield first, "the operations of its atomic request, from 0 on", f"{len(members)}, of which {indexes}"
        elif len({each.operation["success"] for _, each in members}) > 1:
            yield first, "one outcome for all operations of an atomic request", "successes and refusals"
        else:
            yield from _unlike_atomic(members)


def _unlike_atomic(members: Sequence[tuple[int, ExpectedEnd]]) -> Iterator[tuple[Record, str, str]]:
    commands = [command for _, each in members if (command := command_of(each)) is not None]
    if len(commands) < len(members):
        return  # A refusal has no event from which the command could be derived.
    for (_, each), fingerprint in zip(members, atomic_fingerprints(commands), strict=True):
        found = each.operation["fingerprint"]
        if found != fingerprint:
            yield each.operation, f"fingerprint {fingerprint}, as its events have it", f"fingerprint {found}"


def _shown(fields: Mapping[str, object], names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(f"{name} {fields.get(name)}" for name in names)


_CREATED: Final = 201
_FIRST_CREDIT: Final = 2
"""The version of the event that brought the first money: it follows WalletCreated, in the same batch."""
