"""A principal: who a request comes from, and what it may do."""

from enum import Enum, StrEnum, auto
from typing import Final

from wallet.access.tokens import KeyId
from wallet.domain.identifiers import WalletId
from wallet.domain.money import Value


class Scope(StrEnum):
    """A permission. No scope includes another."""

    READ = "read"
    DEPOSIT = "deposit"
    WITHDRAW = "withdraw"
    TRANSFER = "transfer"
    RISK = "risk"
    OPERATE = "operate"


DESCRIPTIONS: Final = {
    Scope.READ: "wallets, history, statistics",
    Scope.DEPOSIT: "deposits",
    Scope.WITHDRAW: "withdrawals",
    Scope.TRANSFER: "transfers",
    Scope.RISK: "`suspiciousReason` in the statistics, which is null without it",
    Scope.OPERATE: "metrics and integrity",
}
"""What each scope allows."""


class Access(Enum):
    """What a route requires of a request if it is not a scope."""

    PUBLIC = auto()
    """Nothing: not even a key."""
    ANY_KEY = auto()
    """A key; the handler checks the scopes, because they depend on the body."""


class RateLimit(Value, frozen=True):
    """How many requests a key may send: `rate` a second on average, `burst` at once."""

    rate: float
    burst: int


class Principal(Value, frozen=True):
    """A key, with its permissions. Without prefixes it may use every wallet."""

    key_id: KeyId
    scopes: frozenset[Scope]
    prefixes: tuple[str, ...] = ()
    limit: RateLimit | None = None

    def has(self, scope: Scope) -> bool:
        """Returns whether it has the scope."""
        return scope in self.scopes

    def may_use(self, wallet_id: str) -> bool:
        """Returns whether the wallet has one of its prefixes; any other wallet looks like one that does not exist."""
        return not self.prefixes or wallet_id.startswith(self.prefixes)

    @property
    def may_read_all(self) -> bool:
        """Returns whether it may read every wallet."""
        return Scope.READ in self.scopes and not self.prefixes

    def may_read(self, wallet_id: WalletId) -> bool:
        """Returns whether it may read this wallet."""
        return Scope.READ in self.scopes and self.may_use(wallet_id)


ANYBODY: Final = Principal(KeyId(""), frozenset(Scope))
"""Where no key is needed: everything is allowed."""
