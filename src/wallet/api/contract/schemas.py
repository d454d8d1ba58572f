"""The shapes of requests and answers: what is encoded, and what the OpenAPI document describes."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from wallet.domain.events import EVENT_TYPES
from wallet.domain.identifiers import ID_LENGTH_MAX, ID_PATTERN
from wallet.wire.schemas import MEANINGS, payload_schema

JSON: Final = "application/json"
AMOUNT_SCHEMA: Final = {
    "type": ["string", "number"],
    "pattern": r"^(0|[1-9][0-9]{0,14})(\.[0-9]{1,4})?$",
    "exclusiveMinimum": 0,
    "maximum": 100_000_000_000_000,
}
_ID_SCHEMA: Final = {"pattern": f"^{ID_PATTERN}$", "minLength": 1, "maxLength": ID_LENGTH_MAX}

Money = Annotated[
    str,
    Meta(
        description="A decimal with exactly 4 decimals.",
        examples=["100.0000"],
        extra_json_schema={"pattern": r"^[0-9]{1,34}\.[0-9]{4}$"},
    ),
]
WalletIdText = Annotated[
    str,
    Meta(description="The id of a wallet.", examples=["alice"], extra_json_schema=_ID_SCHEMA),
]
RequestIdText = Annotated[
    str,
    Meta(
        description="The idempotency key of the request, within the wallet it is sent to.",
        extra_json_schema=_ID_SCHEMA,
    ),
]
Time = Annotated[
    str,
    Meta(
        description="RFC 3339, UTC, microseconds.",
        examples=["2026-01-31T12:00:00.000001Z"],
        extra_json_schema={"format": "date-time"},
    ),
]


class BulkResult(msgspec.Struct, frozen=True, rename="camel"):
    """The outcome of one operation: what its own route would have answered."""

    status: Annotated[int, Meta(description="The status that the operation's own route gives.", examples=[201])]
    replayed: Annotated[bool, Meta(description="Whether this is the answer to an earlier request with the same key.")]
    body: Annotated[
        msgspec.Raw,
        Meta(
            description="The body that the operation's own route gives.",
            extra_json_schema={
                "anyOf": [
                    {"$ref": f"#/components/schemas/{name}"} for name in ("MoveResponse", "TransferResponse", "Problem")
                ]
            },
        ),
    ]


class BulkResponse(msgspec.Struct, frozen=True, rename="camel"):
    """One result for each operation, in their order."""

    results: Sequence[BulkResult]


class MoveResponse(msgspec.Struct, frozen=True, rename="camel"):
    """The result of a command that changed the balance of one wallet."""

    wallet_id: WalletIdText
    balance: Money
    request_id: RequestIdText
    created: Annotated[bool, Meta(description="Whether this command created the wallet.")]


class TransferResponse(msgspec.Struct, frozen=True, rename="camel"):
    """The result of a transfer; both balances are those right after it."""

    transfer_id: Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
    from_wallet_id: WalletIdText
    to_wallet_id: WalletIdText
    amount: Money
    status: Literal["completed"]
    request_id: RequestIdText
    from_balance: Money
    to_balance: Annotated[Money | None, Meta(description="Null if the API key may not read the receiver's wallet.")]


class WalletResponse(msgspec.Struct, frozen=True, rename="camel"):
    """The current balance of a wallet; 0.0000 if the wallet does not exist."""

    wallet_id: WalletIdText
    balance: Money
    exists: bool


class HistoryItem(msgspec.Struct, frozen=True, rename="camel"):
    """One event of the wallet."""

    id: Annotated[str, Meta(description="The event's id.", extra_json_schema={"format": "uuid"})]
    wallet_id: WalletIdText
    transfer_id: Annotated[str | None, Meta(description="The transfer it belongs to, if any.")]
    type: Annotated[str, Meta(examples=["FundsDeposited"])]
    occurred_at: Time
    payload: Annotated[
        msgspec.Raw,
        Meta(
            description="The data of the event; its fields depend on the type.",
            extra_json_schema={"type": "object"},
        ),
    ]


class StatsResponse(msgspec.Struct, frozen=True, rename="camel"):
    """The totals that the worker has counted; zeros for a wallet of which it has counted nothing."""

    wallet_id: WalletIdText
    total_deposited: Money
    total_withdrawn: Money
    total_transferred_out: Money
    total_transferred_in: Money
    last_activity_at: Time | None
    suspicious: Annotated[bool, Meta(description="Whether a fraud rule has flagged the wallet.")]
    suspicious_reason: str | None
    created_at: Annotated[
        Time | None,
        Meta(description="When the worker first counted an event of the wallet; null if it is not known."),
    ]
    updated_at: Annotated[
        Time | None,
        Meta(description="When the worker last counted an event of the wallet; null if it is not known."),
    ]
    as_of: Annotated[
        Time | None,
        Meta(
            description="Every change that was committed before this time is in the totals, whichever wallet it "
            "concerns; null if that is not known yet.",
        ),
    ]


class AliveResponse(msgspec.Struct, frozen=True):
    """The process is alive."""

    status: Literal["alive"] = "alive"


class CheckResult(msgspec.Struct, frozen=True):
    """The result of one check that readiness depends on."""

    name: Annotated[str, Meta(examples=["database"])]
    status: Literal["ok", "degraded", "failed"]
    detail: str


class ReadyResponse(msgspec.Struct, frozen=True):
    """The service is ready; `degraded` means that events leave it late."""

    status: Literal["ready", "degraded"]
    checks: Sequence[CheckResult]


def history_schemas(item: Mapping[str, Any], reference: str) -> dict[str, Any]:
    """Returns the components that describe a history item; `item` is the schema of what all types have in common.

    `reference` is the template of a reference to a component.
    """
    components: dict[str, Any] = {}
    for event_type in EVENT_TYPES:
        payload = payload_schema(event_type)
        components[_payload_name(event_type)] = payload
        components[_item_name(event_type)] = {
            **item,
            "title": event_type,
            "description": MEANINGS[event_type],
            "properties": {
                **item["properties"],
                "type": {"const": event_type},
                "transferId": _transfer_id(payload),
                "payload": {"$ref": reference.format(name=_payload_name(event_type))},
            },
        }
    references = {event_type: reference.format(name=_item_name(event_type)) for event_type in EVENT_TYPES}
    components["HistoryItem"] = {
        "title": item["title"],
        "description": item["description"],
        "oneOf": [{"$ref": target} for target in references.values()],
        "discriminator": {"propertyName": "type", "mapping": references},
    }
    return components


def _transfer_id(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The item's own `transferId`, which is null for an event of no transfer."""
    nothing = {"type": "null", "description": "Null: the event belongs to no transfer."}
    return dict(payload["properties"].get("transferId", nothing))


def _item_name(event_type: str) -> str:
    return f"{event_type}Item"


def _payload_name(event_type: str) -> str:
    return f"{event_type}Payload"


IntegrityStatus = Literal["starting", "clean", "behind", "broken"]

SignedMoney = Annotated[
    str,
    Meta(
        description="A decimal with exactly 4 decimals; below zero only where the books are broken.",
        examples=["100.0000"],
        extra_json_schema={"pattern": r"^-?[0-9]{1,38}\.[0-9]{4}$"},
    ),
]
Seconds = Annotated[float, Meta(description="Seconds, by the database's clock.", ge=0)]


class IntegrityFault(msgspec.Struct, frozen=True, rename="camel"):
    """A promise that is broken, with the first row that breaks it."""

    check: Annotated[str, Meta(examples=["balance"])]
    invariant: Annotated[str, Meta(examples=["I2"])]
    table: str
    row: str
    expected: str
    found: str
    count: Annotated[int, Meta(description="How many rows were found at fault, or a lower bound.", ge=1)]
    found_at: Annotated[Time, Meta(description="When it was found first.")]
    detail: Annotated[str, Meta(description="What it means, and what to do.")]


class IntegrityWarning(msgspec.Struct, frozen=True, rename="camel"):
    """A part of the system is late. Nothing is lost, but an operator should check it."""

    name: Literal["monitor", "fullPass", "relay", "worker", "transfers", "deadLetters"]
    detail: Annotated[str, Meta(description="What it means, and what to do.")]


class IntegrityCheck(msgspec.Struct, frozen=True, rename="camel"):
    """A promise and its status."""

    name: str
    invariant: str
    promise: str
    status: Annotated[
        Literal["clean", "broken", "unproved"], Meta(description="unproved: no full check has covered it yet")
    ]
    looked_at: Annotated[int, Meta(description="How many rows the last full check read for it.", ge=0)]
    faults: Annotated[int, Meta(ge=0)]


class IntegrityConservation(msgspec.Struct, frozen=True, rename="camel"):
    """Where the money is, summed over all events up to the position of the last incremental check."""

    deposits: SignedMoney
    withdrawals: SignedMoney
    balances: Annotated[
        SignedMoney, Meta(description="deposits − withdrawals − inFlight: the sum of all wallet balances.")
    ]
    in_flight: Annotated[SignedMoney, Meta(description="Debited from a sender, and not yet credited or returned.")]


class IntegrityJournal(msgspec.Struct, frozen=True, rename="camel"):
    """The journal: how long it is, and whether a place in it is missing or wrong."""

    positions: Annotated[int, Meta(ge=0)]
    gaps: Annotated[int, Meta(description="Places missing, or not chained to the one before.", ge=0)]


class IntegrityTransfers(msgspec.Struct, frozen=True, rename="camel"):
    """Transfers that were debited more than a minute ago and have not ended."""

    stuck: Annotated[int, Meta(description="At most 1,000 are counted.", ge=0)]
    oldest: Annotated[str | None, Meta(description="The one that is stuck longest, with its sender.")]


class IntegrityWorker(msgspec.Struct, frozen=True, rename="camel"):
    """How far the worker was behind at the last incremental check."""

    lag_events: Annotated[int, Meta(description="Events published that had no effect yet, or a lower bound.", ge=0)]
    lag_seconds: Annotated[Seconds, Meta(description="How long ago the oldest of them happened.")]


class IntegrityIncremental(msgspec.Struct, frozen=True, rename="camel"):
    """The last incremental check: what has changed."""

    age_seconds: Annotated[Seconds | None, Meta(description="null: there has been none yet.")]
    took_seconds: Seconds | None
    position: Annotated[int, Meta(description="Everything in the journal up to here was checked.", ge=0)]
    behind_batches: Annotated[int, Meta(description="Batches sealed since.", ge=0)]


class IntegrityUnderWay(msgspec.Struct, frozen=True, rename="camel"):
    """The full check in progress."""

    age_seconds: Seconds
    progress: Annotated[float, Meta(description="From 0 to 1.", ge=0, le=1)]
    expected_seconds: Annotated[Seconds | None, Meta(description="How long it will take in all, as far as known.")]


class IntegrityFullCheck(msgspec.Struct, frozen=True, rename="camel"):
    """The full check of everything, in the background: its result describes one moment during the last full check."""

    age_seconds: Annotated[Seconds | None, Meta(description="Since the last one began; null: none has ended yet.")]
    duration_seconds: Seconds | None
    under_way: IntegrityUnderWay | None


class IntegrityResponse(msgspec.Struct, frozen=True, rename="camel"):
    """The state of the books, as the integrity monitor knows it."""

    status: Annotated[
        IntegrityStatus,
        Meta(
            description="starting: not everything has been checked once; clean; behind: something is late, nothing is "
            "lost; broken: a promise is broken"
        ),
    ]
    summary: Annotated[str, Meta(description="The same in a sentence.")]
    checked_at: Time
    faults: Sequence[IntegrityFault]
    warnings: Sequence[IntegrityWarning]
    checks: Sequence[IntegrityCheck]
    conservation: IntegrityConservation
    journal: IntegrityJournal
    transfers: IntegrityTransfers
    oldest_unsealed_seconds: Annotated[
        Seconds, Meta(description="The age of the oldest event without a place in the journal; 0: there is none.")
    ]
    oldest_unpublished_seconds: Annotated[Seconds, Meta(description="0: every event was published.")]
    worker: IntegrityWorker
    dead_letters_open: Annotated[int, Meta(ge=0)]
    incremental: IntegrityIncremental
    full_check: IntegrityFullCheck = msgspec.field(name="fullPass")
