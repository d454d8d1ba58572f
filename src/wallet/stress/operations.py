"""What the monkey asks for: each request is a pure function of the seed and its number."""

import random
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum, unique
from typing import Final, NewType

import msgspec

WalletId = NewType("WalletId", str)
Key = NewType("Key", str)

REPEAT_ONE_IN: Final = 10
"""So many requests hold one that sends an earlier key again."""
NEAR_DISTANCE_MAX: Final = 3
"""Half of the repeats follow this close behind the first: at any concurrency most of those meet it under way."""
AMOUNT_MAX: Final = 1000
DECIMAL_PLACES: Final = (0, 2, 2, 4)
"""What amounts are drawn with; four places are what a sum of floats gets wrong first."""


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
        """The route it is sent to."""
        return f"/wallet/{self.wallet_id}/{self.kind}"

    def body(self) -> bytes:
        """The JSON it is sent with. The amount is a number, the one form that every such service takes."""
        fields: dict[str, object] = {"amount": self.amount, "requestId": self.key}
        if self.to_wallet_id is not None:
            fields["toWalletId"] = self.to_wallet_id
        return _encode(fields)

    def __str__(self) -> str:
        """The intention in words, without its key."""
        match self.kind:
            case OperationKind.DEPOSIT:
                return f"deposit of {self.amount} to {self.wallet_id}"
            case OperationKind.WITHDRAW:
                return f"withdrawal of {self.amount} from {self.wallet_id}"
            case OperationKind.TRANSFER:
                return f"transfer of {self.amount} from {self.wallet_id} to {self.to_wallet_id}"


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """The request with this number: an operation, or one that was sent before, with its key."""

    number: int
    operation: Operation


@dataclass(frozen=True, slots=True)
class Plan:
    """All requests of a run. The run's id is in every wallet id and key, so that no two runs meet."""

    seed: int
    run_id: str
    wallet_count: int

    @property
    def wallet_ids(self) -> list[WalletId]:
        """The run's own wallets."""
        return [self._wallet_id(index) for index in range(self.wallet_count)]

    def request(self, number: int) -> PlannedRequest:
        """Draw the request with this number."""
        return PlannedRequest(number, self._operation(origin_of(self.seed, number)))

    def _operation(self, number: int) -> Operation:
        draw = random.Random(f"{self.seed}/operation/{number}")
        kind = draw.choice(tuple(OperationKind))
        places = draw.choice(DECIMAL_PLACES)
        # Built from its digits, so that it is written as plainly as a person would: 12.50, never 1.25E+1.
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
    """The number of the request whose operation this one sends: mostly its own, at times an earlier one's."""
    while number > 0:
        draw = random.Random(f"{seed}/repeat/{number}")
        if draw.randrange(REPEAT_ONE_IN):
            break
        is_near = draw.randrange(2)
        number -= min(number, draw.randint(1, NEAR_DISTANCE_MAX if is_near else number))
    return number


_encode: Final = msgspec.json.Encoder(decimal_format="number").encode
