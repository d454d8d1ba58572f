"""How a dead letter is shown: whatever its body holds, and with every field that differs from the log."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from wallet.cli.dlq_views import advice, body_lines
from wallet.cli.options import clipped, printable
from wallet.dead_letters.details import ABSENT, Details, Difference, NotComparable, differences
from wallet.dead_letters.reading import DeadLetter, DeadLetterId, DeadLetterKind, DeadLetterState, StoredMessage
from wallet.dead_letters.replay import WaitingEvent
from wallet.domain.identifiers import EventId, WalletId

AT = datetime(2026, 1, 1, tzinfo=UTC)
LETTER = DeadLetter(
    DeadLetterId(7),
    DeadLetterState.OPEN,
    DeadLetterKind.FAILED,
    "FundsDeposited",
    EventId(UUID(int=1)),
    WalletId("alice"),
    1,
    "RaiseError: a bug",
    3,
    None,
    None,
    AT,
    AT,
    0,
    None,
)


def details_of(body: bytes, *, body_bytes: int | None = None) -> Details:
    letter = replace(LETTER, body_bytes=len(body) if body_bytes is None else body_bytes)
    return Details(letter, StoredMessage(body, None, None, {}, []), None, None, None, None)


def shown(body: bytes, *, body_bytes: int | None = None) -> str:
    return "\n".join(body_lines(details_of(body, body_bytes=body_bytes)))


def test_json_is_indented_and_its_numbers_keep_their_digits() -> None:
    assert shown(b'{"a":1.00,"a":[1e400]}') == '{\n  "a": 1.00,\n  "a": [\n    1e400\n  ]\n}'


def test_text_that_could_move_the_cursor_is_spelled_out() -> None:
    assert shown(b"hello \x1b[2J\r\n\xe2\x80\xae world") == "hello \\x1b[2J\\r\\n\\u202e world"
    assert printable("é\x00\ud800\U000e0001") == "é\\x00\\ud800\\U000e0001"


def test_other_bytes_are_shown_in_hex() -> None:
    assert shown(b"\xff\x00 not JSON") == f"0000  {'ff 00 20 6e 6f 74 20 4a 53 4f 4e':<48} .. not JSON"


@pytest.mark.parametrize(
    ("body", "body_bytes"),
    [
        (b" " * 262_144, 5 * 1024 * 1024),
        (b"\xff" * 262_144, 5 * 1024 * 1024),
        (b'{"blob":"' + b"y" * 200_000 + b'"}', None),
        (b"[" + b"1," * 100_000 + b"1]", None),
        (b"[" * 200_000, None),
        ("é".encode() * 131_072 + b"\xc3", 5 * 1024 * 1024),
    ],
    ids=["blanks", "bytes", "a long line", "many lines", "deep", "cut inside a character"],
)
def test_a_large_body_is_cut_with_its_length_and_how_to_get_what_is_stored(body: bytes, body_bytes: int | None) -> None:
    text = shown(body, body_bytes=body_bytes)
    assert len(text) < 20_000
    stored = f"All {len(body):,} bytes" if body_bytes is None else f"The body had {body_bytes:,} bytes. The first 1 MiB"
    assert text.endswith(f"… cut here. {stored}: wallet dlq show 7 --body > FILE")


def test_an_empty_body_and_one_that_fits_have_no_such_line() -> None:
    assert shown(b"") == "(0 characters of white space)"
    assert "cut here" not in shown(b'{"a": "b"}')


def test_a_long_text_ends_with_an_ellipsis_within_its_limit() -> None:
    assert clipped("12345", 5) == "12345"
    assert clipped("123456", 5) == "1234…"


def test_every_field_that_differs_is_named_with_both_values() -> None:
    message = b'{"id":"1","version":2.0,"payload":{"amount":"9","extra":{}},"walletId":null}'
    logged = b'{"id":"1","version":2,"walletId":"alice","payload":{"amount":"1.0000"}}'
    assert differences(message, logged) == [
        Difference("version", "2.0", "2"),
        Difference("walletId", "null", '"alice"'),
        Difference("payload.amount", '"9"', '"1.0000"'),
        Difference("payload.extra", "{}", ABSENT),
    ]


def test_the_order_of_fields_and_white_space_are_no_difference() -> None:
    assert differences(b'{"b": [1, {"c": 2}], "a": true}', b'{"a":true,"b":[1,{"c":2}]}') == []


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"7", b"{", b'{"a":' * 5_000, b'{"a":' + b"9" * 5_000 + b"}x"])
def test_what_is_no_json_object_is_not_compared(body: bytes) -> None:
    with pytest.raises(NotComparable):
        differences(body, b"{}")


@pytest.mark.parametrize(
    ("fields", "refusal", "first_words"),
    [
        ({}, None, "This program can read it now"),
        ({}, "UndecodableMessage", "A replay would fail again"),
        ({"kind": DeadLetterKind.PARKED}, "UnknownSchemaVersion", "Nobody is at fault"),
        ({"kind": DeadLetterKind.PARKED}, None, "This program can read it now"),
        ({"took_effect_at": AT}, None, "Its event took effect, so nothing is missing. `wallet dlq replay 7`"),
        ({"took_effect_at": AT}, "NotInTheLog", "Its event took effect, so nothing is missing, and a replay would"),
        ({"state": DeadLetterState.REPLAYED, "took_effect_at": AT}, None, "Nothing: its event took effect"),
        ({"state": DeadLetterState.REPLAYED}, None, "Wait for the worker"),
        ({"state": DeadLetterState.REPLAYED, "event_id": None}, None, "Nothing. If the message fails again"),
        ({"state": DeadLetterState.DISCARDED}, None, "Nothing. `wallet dlq replay 7 --force`"),
    ],
)
def test_the_advice_fits_the_case(fields: dict[str, Any], refusal: str | None, first_words: str) -> None:
    details = replace(details_of(b"{}"), letter=replace(LETTER, **fields), refusal=refusal)
    assert advice(details)[0].startswith(first_words)


def test_of_an_event_that_waits_for_its_effect_the_advice_names_the_cure_and_that_a_discard_is_refused() -> None:
    waiting = replace(details_of(b"{}"), waiting_event=WaitingEvent(WalletId("alice"), 7))
    refused = " ".join(advice(replace(waiting, letter=LETTER, refusal="UndecodableMessage")))
    assert "wallet alice, version 7" in refused
    assert "`wallet rebuild`" in refused
    assert "until then it is refused" in refused
    discarded = advice(replace(waiting, letter=replace(LETTER, state=DeadLetterState.DISCARDED)))
    assert "`wallet rebuild`" in " ".join(discarded)
