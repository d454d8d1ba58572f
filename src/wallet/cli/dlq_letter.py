"""One dead letter on the screen: what it is, its history, its message, its event in the log, and what to do."""

import codecs
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import msgspec
from rich.console import Console

from wallet.cli.dlq_advice import advice
from wallet.cli.dlq_list import letter_object, state_of
from wallet.cli.printable import clipped, printable
from wallet.dead_letters.details import Details
from wallet.dead_letters.letters import Happening, Letter

HISTORY_SHOWN: Final = 30
JSON_CHARACTERS_SHOWN: Final = 6_000
LINE_CHARACTERS_SHOWN: Final = 300
TEXT_CHARACTERS_SHOWN: Final = 1_000
HEX_BYTES_SHOWN: Final = 256
HEX_BYTES_A_LINE: Final = 16
VALUE_CHARACTERS_SHOWN: Final = 120


def tell_letter(details: Details) -> None:
    """Print all about one letter."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    letter = details.letter
    console.print(f"Dead letter {letter.letter_id}: {state_of(letter)}", style="bold")
    for name, value in _facts(details):
        console.print(f"  {name:<11}{value}")
    sections = {
        "History": _history(details),
        f"Message body, {letter.body_bytes:,} bytes": body_lines(details),
        "Beside the body": _properties(details),
        "Event in the log": _logged(details),
        "Where the message differs from the log": _differences(details),
        "What to do": advice(details),
    }
    for title, lines in sections.items():
        console.print()
        console.print(title, style="bold")
        for line in lines:
            console.print(f"  {line}")


def details_object(details: Details) -> dict[str, Any]:
    """All about one letter for scripts. The body is text where it is UTF-8; `dlq show --body` writes every byte."""
    message = details.message
    differences = details.differences
    return {
        **letter_object(details.letter),
        "message": {
            "messageId": message.message_id,
            "type": message.type,
            "headers": dict(message.headers),
            "body": message.body.decode(errors="replace"),
            "isCut": details.is_cut,
        },
        "history": [
            {
                "what": each.what,
                "at": each.at.isoformat(),
                "actor": each.actor,
                "reason": each.reason,
                "error": each.error,
                "attempts": each.attempts,
            }
            for each in message.history
        ],
        "loggedEvent": None if details.logged is None else json.loads(details.logged),
        "differences": None
        if differences is None
        else [{"path": each.path, "inMessage": each.in_message, "inLog": each.in_log} for each in differences],
        "refusal": details.refusal,
        "advice": advice(details),
    }


def body_lines(details: Details) -> Iterator[str]:
    """The body: JSON indented, other text escaped, other bytes in hex; each cut to what one can read."""
    body, letter = details.message.body, details.letter
    text = None if details.is_cut else _indented(body)
    if text is not None:
        lines = text[:JSON_CHARACTERS_SHOWN].split("\n")
        is_cut = len(text) > JSON_CHARACTERS_SHOWN or max(map(len, lines)) > LINE_CHARACTERS_SHOWN
        yield from (clipped(printable(line), LINE_CHARACTERS_SHOWN) for line in lines)
    elif (text := _text(body)) is not None:
        shown = text[:TEXT_CHARACTERS_SHOWN]
        is_cut = details.is_cut or len(shown) < len(text)
        yield printable(shown) if shown.strip() else f"({len(shown):,} characters of white space)"
    else:
        is_cut = letter.body_bytes > HEX_BYTES_SHOWN
        yield from _hex(body[:HEX_BYTES_SHOWN])
    if is_cut:
        stored = "The first 1 MiB" if letter.is_too_long else f"All {letter.body_bytes:,} bytes"
        whole = f" The body had {letter.body_bytes:,} bytes." if letter.is_too_long else ""
        yield f"… cut here.{whole} {stored}: wallet dlq show {letter.letter_id} --body > FILE"


def _facts(details: Details) -> Iterator[tuple[str, str]]:
    letter = details.letter
    yield "event", f"{printable(letter.type or '–')}  {letter.event_id or 'no id that can be read'}"
    version = "" if letter.version is None else f", version {letter.version}"
    yield "wallet", f"{letter.wallet_id}{version}" if letter.wallet_id else "none that can be read"
    lines = letter.error.strip().split("\n")
    yield "error", printable(lines[0])
    yield from (("", printable(line)) for line in lines[1:])
    yield "tries", str(letter.attempts)
    yield "kept since", _time(letter.created_at)
    yield "effect", _effect(letter)


def _effect(letter: Letter) -> str:
    if letter.took_effect_at is not None:
        return f"the event it names took effect at {_time(letter.took_effect_at)}"
    return "none: it names no event" if letter.event_id is None else "none so far"


def _history(details: Details) -> Iterator[str]:
    history = details.message.history
    if len(history) > HISTORY_SHOWN:
        yield f"… {len(history) - HISTORY_SHOWN} earlier entries"
    first_shown = max(0, len(history) - HISTORY_SHOWN)
    for number, happening in enumerate(history[first_shown:], start=first_shown):
        error = "the error above" if happening.error == details.letter.error else _value(happening.error or "")
        yield f"{_time(happening.at)}  {_happened(happening, error, is_first=number == 0)}"


def _happened(happening: Happening, error: str, *, is_first: bool) -> str:
    by = f" by {printable(happening.actor)}" if happening.actor else ""
    match happening.what:
        case "opened":
            tries = "1 try" if happening.attempts == 1 else f"{happening.attempts} tries"
            return f"{'kept' if is_first else 'came back, and kept again'} after {tries}: {error}"
        case "replay failed":
            return f"replayed{by}, and failed again: {error}"
        case "discarded":
            return f"discarded{by}: {printable(happening.reason or '')}"
        case what:
            return f"{what}{by}"


def _properties(details: Details) -> Iterator[str]:
    message = details.message
    yield f"message id  {printable(message.message_id or '–')}"
    yield f"type        {printable(message.type or '–')}"
    for name, value in message.headers.items():
        shown = printable(json.dumps(value, ensure_ascii=False))
        yield f"header      {printable(name)}: {clipped(shown, VALUE_CHARACTERS_SHOWN)}"


def _logged(details: Details) -> Iterator[str]:
    if details.logged is not None:
        yield from (printable(line) for line in (_indented(details.logged) or "").split("\n"))
    elif details.letter.wallet_id is None:
        yield "The message names no wallet, so its event can't be looked for."
    else:
        yield "The log has no such event."


def _differences(details: Details) -> Iterator[str]:
    if details.differences is None:
        yield "They can't be compared." if details.logged is not None else "There is nothing to compare it with."
    elif not details.differences:
        yield "Nowhere: they say the same."
    else:
        for difference in details.differences:
            path = printable(difference.path)
            yield f"{path}: the message says {_value(difference.in_message)}, the log {_value(difference.in_log)}"


def _value(text: str) -> str:
    return clipped(printable(text), VALUE_CHARACTERS_SHOWN)


def _indented(body: bytes) -> str | None:
    try:
        return msgspec.json.format(body, indent=2).decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _text(body: bytes) -> str | None:
    try:
        # The last character may be cut.
        return codecs.getincrementaldecoder("utf-8")().decode(body)
    except UnicodeDecodeError:
        return None


def _hex(body: bytes) -> Iterator[str]:
    for start in range(0, len(body), HEX_BYTES_A_LINE):
        part = body[start : start + HEX_BYTES_A_LINE]
        signs = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        yield f"{start:04x}  {part.hex(' '):<{HEX_BYTES_A_LINE * 3}} {signs}"


def _time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}.{time.microsecond // 1000:03} UTC"
