"""The requests of a run: each is a pure function of the seed and its number."""

import random
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum, unique
from typing import Final, NewType

import msgspec

WalletId = NewType("WalletId", str)
Key = NewType("Key", str)

REPEAT_ONE_IN: Final = 10
"""One request in this many sends an earlier key again."""
NEAR_DISTANCE_MAX: Final = 3
"""Half of the repeats follow their first request within this distance: at any concurrency most of them arrive while it
is still running.
"""
AMOUNT_MAX: Final = 1000
DECIMAL_PLACES: Final = (0, 2, 2, 4)
"""The numbers of decimals that amounts are drawn with; with four decimals a sum of floats is wrong soonest."""


@unique
class OperationKind(StrEnum):
    """The three routes that move money; the value is the route's last word."""

    DEPOSIT = "deposit"
    WITHDRAW = "withdraw"
    TRANSFER = "transfer"


@dataclass(frozen=True, slots=True)
class Operation:
    """One intention with its key; `to_wallet_id` is a transfer's receiver."""

    kind: OperationKind
    wallet_id: WalletId
    key: Key
    amount: Decimal
    to_wallet_id: WalletId | None = None

    @property
    def path(self) -> str:
        """Returns the path of the route."""
        return f"/wallet/{self.wallet_id}/{self.kind}"

    def body(self) -> bytes:
        """Returns the JSON body. The amount is a number, the one form that every such service accepts."""
        fields: dict[str, object] = {"amount": self.amount, "requestId": self.key}
        if self.to_wallet_id is not None:
            fields["toWalletId"] = self.to_wallet_id
        return _encode(fields)

    def __str__(self) -> str:
        """Returns the intention in words, without its key."""
        match self.kind:
            case OperationKind.DEPOSIT:
                return f"deposit of {self.amount} to {self.wallet_id}"
            case OperationKind.WITHDRAW:
                return f"withdrawal of {self.amount} from {self.wallet_id}"
            case OperationKind.TRANSFER:
                return f"transfer of {self.amount} from {self.wallet_id} to {self.to_wallet_id}"


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """The request with this number: a new operation, or one that was sent before, with its key."""

    number: int
    operation: Operation


@dataclass(frozen=True, slots=True)
class Plan:
    """All requests of a run. The run's id is in every wallet id and key, so that two runs never share one."""

    seed: int
    run_id: str
    wallet_count: int

    @property
    def wallet_ids(self) -> list[WalletId]:
        """Returns the run's own wallets."""
        return [self._wallet_id(index) for index in range(self.wallet_count)]

    def request(self, number: int) -> PlannedRequest:
        """Draw the request with this number."""
        return PlannedRequest(number, self._operation(origin_of(self.seed, number)))

    def _operation(self, number: int) -> Operation:
        draw = random.Random(f"{self.seed}/operation/{number}")
        kind = draw.choice(tuple(OperationKind))
        places = draw.choice(DECIMAL_PLACES)
        # The amount is built from its digits, so that it is written in plain notation: 12.50, never 1.25E+1.
        amount = Decimal(draw.randint(1, AMOUNT_MAX * 10**places)).scaleb(-places)
        one, other = draw.sample(range(self.wallet_count), 2)
        return Operation(
            kind=kind,
            wallet_id=self._wallet_id(one),
            key=Key(f"monkey-{self.run_id}-key-{number}"),
            amount=amount,
            to_wallet_id=self._wallet_id(other) if kind is OperationKind.TRANSFER else None,
        )

    def _wallet_id(self, index: int) -> WalletId:
        return WalletId(f"monkey-{self.run_id}-{index + 1}")


def origin_of(seed: int, number: int) -> int:
    """Returns the number of the request whose operation this one sends: usually its own, sometimes an earlier one's."""
    while number > 0:
        draw = random.Random(f"{seed}/repeat/{number}")
        if draw.randrange(REPEAT_ONE_IN):
            break
        is_near = draw.randrange(2)
        number -= min(number, draw.randint(1, NEAR_DISTANCE_MAX if is_near else number))
    return number


_encode: Final = msgspec.json.Encoder(decimal_format="number").encode
