"""The shape of the answer of `GET /integrity`."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wallet.api.contract.schemas import Time

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
    """Something is behind: nothing is lost, and somebody should look."""

    name: Literal["monitor", "fullPass", "relay", "worker", "transfers", "deadLetters"]
    detail: Annotated[str, Meta(description="What it means, and what to do.")]


class IntegrityCheck(msgspec.Struct, frozen=True, rename="camel"):
    """One promise, and how it stands."""

    name: str
    invariant: str
    promise: str
    status: Annotated[
        Literal["clean", "broken", "unproved"], Meta(description="unproved: no full pass has looked at it yet")
    ]
    looked_at: Annotated[int, Meta(description="How many rows the last full check read for it.", ge=0)]
    faults: Annotated[int, Meta(ge=0)]


class IntegrityConservation(msgspec.Struct, frozen=True, rename="camel"):
    """Where the money is, summed over all events up to the position of the last look."""

    deposits: SignedMoney
    withdrawals: SignedMoney
    balances: Annotated[SignedMoney, Meta(description="deposits − withdrawals − inFlight: what the wallets hold.")]
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
    """How far the worker was behind at the last look."""

    lag_events: Annotated[int, Meta(description="Events published that had no effect yet, or a lower bound.", ge=0)]
    lag_seconds: Annotated[Seconds, Meta(description="How long ago the oldest of them happened.")]


class IntegrityIncremental(msgspec.Struct, frozen=True, rename="camel"):
    """The last look at what has changed."""

    age_seconds: Annotated[Seconds | None, Meta(description="null: there was none yet.")]
    took_seconds: Seconds | None
    position: Annotated[int, Meta(description="Everything in the journal up to here was looked at.", ge=0)]
    behind_batches: Annotated[int, Meta(description="Batches sealed since.", ge=0)]


class IntegrityUnderWay(msgspec.Struct, frozen=True, rename="camel"):
    """The full pass that goes on now."""

    age_seconds: Seconds
    progress: Annotated[float, Meta(description="From 0 to 1.", ge=0, le=1)]
    expected_seconds: Annotated[Seconds | None, Meta(description="How long it will take in all, as far as known.")]


class IntegrityFullPass(msgspec.Struct, frozen=True, rename="camel"):
    """The background pass over everything: what it says is true of a moment within the last one."""

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
    full_pass: IntegrityFullPass
