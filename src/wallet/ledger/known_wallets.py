"""Wallets that surely exist, so that a batch need not ask to make them: a wallet, once made, is never removed."""

from collections.abc import Iterable
from typing import Final

from wallet.domain.identifiers import WalletId

REMEMBERED_MAX: Final = 100_000
"""About 10 MB; one more, and all are forgotten, which costs a statement per batch until they are known again."""


class KnownWallets:
    """The wallets that this process has seen committed. A hint: its users check that the row exists."""

    def __init__(self) -> None:
        self._ids: set[WalletId] = set()

    def remember(self, wallet_ids: Iterable[WalletId]) -> None:
        """These exist: an event of theirs was committed, or read as committed."""
        if len(self._ids) >= REMEMBERED_MAX:
            self._ids.clear()
        self._ids.update(wallet_ids)

    def forget(self, wallet_ids: Iterable[WalletId]) -> None:
        """These were not there after all: the database is not the one it was."""
        self._ids.difference_update(wallet_ids)

    def unknown(self, wallet_ids: set[WalletId]) -> set[WalletId]:
        """Those that may have to be made."""
        return wallet_ids - self._ids
