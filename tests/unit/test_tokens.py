"""The text of an API key: its form, its checksum, and that no two are equal."""

import random
import re

import pytest

from wallet.access.tokens import CHECKSUM_LENGTH, digest_of, is_well_formed, new_token


@pytest.mark.parametrize(("is_test", "kind"), [(False, "wlt_live_"), (True, "wlt_test_")])
def test_a_key_has_its_kind_id_secret_and_checksum(is_test: bool, kind: str) -> None:
    token = new_token(is_test=is_test)
    assert re.fullmatch(kind + r"[0-9A-Za-z]{12}_[0-9A-Za-z]{49}", token.text)
    assert token.text.startswith(f"{kind}{token.key_id}_")
    assert is_well_formed(token.text)
    assert token.digest == digest_of(token.text)
    assert len(token.digest) == 32


def test_keys_differ() -> None:
    assert len({new_token(is_test=False).text for _ in range(100)}) == 100


def test_every_mistyped_character_is_noticed() -> None:
    text = new_token(is_test=False).text
    seed = random.randrange(2**32)
    draw = random.Random(seed)
    for place in range(len(text)):
        other = draw.choice([letter for letter in "0Aaz_-é\n" if letter != text[place]])
        assert not is_well_formed(text[:place] + other + text[place + 1 :]), f"place {place}, seed {seed}"


@pytest.mark.parametrize("cut", [0, 1, CHECKSUM_LENGTH, 20])
def test_an_incomplete_key_is_noticed(cut: int) -> None:
    text = new_token(is_test=False).text
    assert not is_well_formed(text[cut + 1 :])
    assert not is_well_formed(text[: len(text) - cut - 1])
    assert not is_well_formed("")
