"""Arrays spelled as text: PostgreSQL reads back exactly what was meant, whatever is in the texts."""

import pytest

from tests.support.database import connected
from wallet.postgres.statements import array_of, array_of_texts, array_of_texts_or_nulls

TEXTS = [
    *("", "NULL", "null", "a,b", "{a}", '"', "\\", '\\"', "a b ", " ", "\t\n", "\x01", "x\x01y", "é€😀"),
    "'; drop table events; --",
]
PLAIN = [text for text in TEXTS if "\x01" not in text]


@pytest.mark.parametrize("texts", [[], TEXTS, PLAIN, *([text] for text in TEXTS)])
async def test_texts_come_back_as_they_were(database_url: str, texts: list[str]) -> None:
    async with connected(database_url) as connection:
        assert await connection.fetchval("select $1::text::text[]", array_of_texts(texts)) == texts
        with_nulls = [each for text in texts for each in (text, None)]
        assert await connection.fetchval("select $1::text::text[]", array_of_texts_or_nulls(with_nulls)) == with_nulls


async def test_numbers_and_booleans_come_back_as_they_were(database_url: str) -> None:
    async with connected(database_url) as connection:
        numbers = [0, -1, 2**62, None]
        assert await connection.fetchval("select $1::text::bigint[]", array_of(numbers)) == numbers
        assert await connection.fetchval("select $1::text::boolean[]", array_of([True, None, False])) == [
            True,
            None,
            False,
        ]
        assert await connection.fetchval("select $1::text::bigint[]", array_of([])) == []
