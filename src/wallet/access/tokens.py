"""The text of an API key: `wlt_live_<id><_><secret><checksum>`, in base62.

The checksum lets a scanner recognise a leaked key, and an api name a mistyped one, without a look-up.
"""

import secrets
from hashlib import sha256
from typing import Final, NewType
from zlib import crc32

from wallet.domain.money import Value

KeyId = NewType("KeyId", str)

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LETTERS: Final = frozenset(_ALPHABET)
ID_LENGTH: Final = 12
SECRET_LENGTH: Final = 43
"""256 bits: log2(62 ** 43) is 256.03."""
CHECKSUM_LENGTH: Final = 6
LIVE: Final = "wlt_live_"
TEST: Final = "wlt_test_"


class Token(Value, frozen=True):
    """A key as its owner sends it. Only the digest of its text is stored."""

    key_id: KeyId
    text: str

    @property
    def digest(self) -> bytes:
        """Returns what is stored instead of the secret."""
        return digest_of(self.text)


def new_token(*, is_test: bool) -> Token:
    """Returns a new random key."""
    key_id = KeyId(_random(ID_LENGTH))
    text = f"{TEST if is_test else LIVE}{key_id}_{_random(SECRET_LENGTH)}"
    return Token(key_id, text + _checksum(text))


def digest_of(text: str) -> bytes:
    """Returns the SHA-256 of a key's text. Its secret has 256 random bits, so a slow hash would protect no better."""
    return sha256(text.encode()).digest()


def is_well_formed(text: str) -> bool:
    """Returns whether a text has the form of a key, and its checksum."""
    body, checksum = text[:-CHECKSUM_LENGTH], text[-CHECKSUM_LENGTH:]
    kind, rest = body[: len(LIVE)], body[len(LIVE) :]
    key_id, separator, secret = rest.partition("_")
    return (
        kind in (LIVE, TEST)
        and separator == "_"
        and len(key_id) == ID_LENGTH
        and len(secret) == SECRET_LENGTH
        and _LETTERS.issuperset(key_id)
        and _LETTERS.issuperset(secret)
        and checksum == _checksum(body)
    )


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(text: str) -> str:
    number, digits = crc32(text.encode()), ""
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
