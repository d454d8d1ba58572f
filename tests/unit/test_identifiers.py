"""Ids: their one spelling, and the bucket that must never change."""

import pytest

from wallet.domain.identifiers import WalletId, bucket_of, is_id

GOLDEN_BUCKETS = {"alice": 43, "bob": 1, "wallet-1": 8, "a": 10, "user@example.com": 52, "Z" * 128: 52}
"""Wallets are stored under these numbers: a change here means that every wallet in every database has moved."""


@pytest.mark.parametrize("text", ["a", "A-1", "user@example.com", "a.b:c_d-e", "0", "x" * 128])
def test_a_plain_word_is_an_id(text: str) -> None:
    assert is_id(text)


@pytest.mark.parametrize(
    "text", ["", "x" * 129, "-a", ".a", " a", "a ", "a\n", "a/b", "a\x00", "é", "а", "a%2fb", "a b", "a\u200b", "٣"]
)
def test_anything_else_is_not(text: str) -> None:
    assert not is_id(text)


@pytest.mark.parametrize(("wallet_id", "bucket"), GOLDEN_BUCKETS.items())
def test_a_wallets_bucket_never_changes(wallet_id: str, bucket: int) -> None:
    assert bucket_of(WalletId(wallet_id)) == bucket
