"""Formats dead letters: a table for people, a JSON object for scripts."""

import codecs
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wallet.cli.errands import print_json
from wallet.cli.options import clipped, printable
from wallet.dead_letters.details import Details
from wallet.dead_letters.reading import DeadLetter, DeadLetterKind, DeadLetterState, HistoryEntry

TYPE_CHARACTERS_SHOWN: Final = 40
ERROR_CHARACTERS_SHOWN: Final = 160
WALLET_CHARACTERS_SHOWN: Final = 40
_UNLIMITED: Final = 10_000


def print_dead_letters(letters: Sequence[DeadLetter], *, not_shown: int, with_closed: bool, as_json: bool) -> None:
    """Print the dead letters, and how many more there are."""
    if as_json:
        print_json({"letters": [dead_letter_object(letter) for letter in letters], "notShown": not_shown})
        return
    if not letters:
        print("no dead letters" if with_closed else "no open dead letters")
        return
    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        table = _table(letters, date_separator=" ")
        unlimited = console.options.update(max_width=_UNLIMITED)
        if table.__rich_measure__(console, unlimited).maximum > console.width:
            table = _table(letters, date_separator="\n")
        console.print(table)
    else:
        print("\n".join(_lines(letters)))
    if not_shown:
        print(f"… and {not_shown:,} more: --limit shows more at once")
    if console.is_terminal:
        for line in _legend(letters):
            console.print(line, style="dim", soft_wrap=True)


def state_of(letter: DeadLetter) -> str:
    """Returns the state in one word; `parked` means open, with neither the message nor this program at fault."""
    return letter.kind.value if letter.is_open and letter.kind is DeadLetterKind.PARKED else letter.state.value


def _table(letters: Sequence[DeadLetter], *, date_separator: str) -> Table:
    """Returns a table with a row of a few lines for each dead letter. With the date on two lines it fits into 80
    columns.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("since (UTC)", no_wrap=True)
    table.add_column("tries", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("event, wallet, error", overflow="fold")
    for letter in letters:
        table.add_row(
            str(letter.dead_letter_id),
            f"{letter.created_at:%Y-%m-%d}{date_separator}{letter.created_at:%H:%M:%S}",
            str(letter.attempts),
            _state_cell(letter),
            Text("\n".join(_told(letter))),
        )
    return table


def _told(letter: DeadLetter) -> Iterator[str]:
    wallet = f"wallet {clipped(letter.wallet_id, WALLET_CHARACTERS_SHOWN)}" if letter.wallet_id else "no wallet"
    yield f"{_type(letter)}, {wallet}"
    if letter.event_id is not None:
        yield str(letter.event_id)
    yield _error(letter)


def _state_cell(letter: DeadLetter) -> Text:
    style = {"open": "bold red", "parked": "bold yellow", "replayed": "green"}.get(state_of(letter), "dim")
    cell = Text(state_of(letter), style=style)
    if letter.took_effect_at is not None:
        cell.append("\ntook effect", style="green")
    return cell


def _lines(letters: Sequence[DeadLetter]) -> Iterator[str]:
    """Yields a line for each dead letter, in columns, for a pipe or a file."""
    rows = [("id", "since (UTC)", "tries", "state", "effect", "type", "event", "wallet", "error")]
    rows += [
        (
            str(letter.dead_letter_id),
            f"{letter.created_at:%Y-%m-%dT%H:%M:%SZ}",
            str(letter.attempts),
            state_of(letter),
            "took effect" if letter.took_effect_at else "–",
            _type(letter),
            str(letter.event_id or "–"),
            letter.wallet_id or "–",
            _error(letter),
        )
        for letter in letters
    ]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _type(letter: DeadLetter) -> str:
    return clipped(printable(letter.type or "no type"), TYPE_CHARACTERS_SHOWN)


def _error(letter: DeadLetter) -> str:
    return clipped(printable(letter.error.strip().partition("\n")[0]), ERROR_CHARACTERS_SHOWN)


def _legend(letters: Sequence[DeadLetter]) -> Iterator[str]:
    if any(state_of(letter) == "parked" for letter in letters):
        yield "parked: a newer program wrote it; replay it when a version that can read it runs here"
    if any(letter.is_open and letter.took_effect_at for letter in letters):
        yield "took effect: the event it names has counted all the same, so nothing is missing"
    yield "wallet dlq show ID   wallet dlq replay ID | --all   wallet dlq discard ID --reason WHY"


def dead_letter_object(letter: DeadLetter) -> dict[str, Any]:
    """Returns one dead letter for scripts."""
    return {
        "id": letter.dead_letter_id,
        "state": letter.state.value,
        "kind": letter.kind.value,
        "type": letter.type,
        "eventId": None if letter.event_id is None else str(letter.event_id),
        "walletId": letter.wallet_id,
        "version": letter.version,
        "error": letter.error,
        "attempts": letter.attempts,
        "bodyBytes": letter.body_bytes,
        "createdAt": letter.created_at.isoformat(),
        "updatedAt": letter.updated_at.isoformat(),
        "tookEffectAt": None if letter.took_effect_at is None else letter.took_effect_at.isoformat(),
        "actor": letter.actor,
        "reason": letter.reason,
    }


HISTORY_SHOWN: Final = 30
JSON_CHARACTERS_SHOWN: Final = 6_000
LINE_CHARACTERS_SHOWN: Final = 300
TEXT_CHARACTERS_SHOWN: Final = 1_000
HEX_BYTES_SHOWN: Final = 256
HEX_BYTES_A_LINE: Final = 16
VALUE_CHARACTERS_SHOWN: Final = 120


def print_dead_letter(details: Details) -> None:
    """Print everything about one dead letter."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    letter = details.letter
    console.print(f"Dead letter {letter.dead_letter_id}: {state_of(letter)}", style="bold")
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
    """Returns everything about one dead letter for scripts. A UTF-8 body is text; `dlq show --body` writes the exact
    bytes.
    """
    message = details.message
    differences = details.differences
    return {
        **dead_letter_object(details.letter),
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
    """Yields the body: JSON indented, other text escaped, other bytes in hex; each cut to a readable length."""
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
        yield f"… cut here.{whole} {stored}: wallet dlq show {letter.dead_letter_id} --body > FILE"


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


def _effect(letter: DeadLetter) -> str:
    if letter.took_effect_at is not None:
        return f"the event it names took effect at {_time(letter.took_effect_at)}"
    return "none: it names no event" if letter.event_id is None else "none so far"


def _history(details: Details) -> Iterator[str]:
    history = details.message.history
    if len(history) > HISTORY_SHOWN:
        yield f"… {len(history) - HISTORY_SHOWN} earlier entries"
    first_shown = max(0, len(history) - HISTORY_SHOWN)
    for number, entry in enumerate(history[first_shown:], start=first_shown):
        error = "the error above" if entry.error == details.letter.error else _value(entry.error or "")
        yield f"{_time(entry.at)}  {_happened(entry, error, is_first=number == 0)}"


def _happened(entry: HistoryEntry, error: str, *, is_first: bool) -> str:
    by = f" by {printable(entry.actor)}" if entry.actor else ""
    match entry.what:
        case "opened":
            tries = "1 try" if entry.attempts == 1 else f"{entry.attempts} tries"
            return f"{'kept' if is_first else 'came back, and kept again'} after {tries}: {error}"
        case "replay failed":
            return f"replayed{by}, and failed again: {error}"
        case "discarded":
            return f"discarded{by}: {printable(entry.reason or '')}"
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
        yield "No differences."
    else:
        for difference in details.differences:
            path = printable(difference.path)
            yield f"{path}: the message has {_value(difference.in_message)}, the log has {_value(difference.in_log)}"


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


def advice(details: Details) -> list[str]:
    """Returns a few lines of advice, the most important first."""
    letter = details.letter
    match letter.state:
        case DeadLetterState.DISCARDED if details.waiting_event is not None:
            return [
                "It was discarded although its event is in the log and has had no effect.",
                (
                    f"`wallet dlq replay {letter.dead_letter_id} --force` reverses the discard; if the replay fails, "
                    "`wallet rebuild` gives the effect."
                ),
            ]
        case DeadLetterState.DISCARDED:
            return [f"Nothing. `wallet dlq replay {letter.dead_letter_id} --force` reverses the discard."]
        case DeadLetterState.REPLAYED:
            return _about_replayed(details)
        case DeadLetterState.OPEN:
            return _about_open(details)


def _about_replayed(details: Details) -> list[str]:
    letter = details.letter
    if letter.took_effect_at is not None:
        return ["Nothing: its event took effect."]
    if letter.event_id is None:
        return ["Nothing. If the message fails again, the dead letter is reopened."]
    return [
        "Wait for the worker: the event has not taken effect yet. Does one run?",
        (
            "If the worker's queue was emptied, publish the message again: "
            f"`wallet dlq replay {letter.dead_letter_id} --force`."
        ),
    ]


def _about_open(details: Details) -> list[str]:
    letter = details.letter
    replay, discard = (
        f"`wallet dlq replay {letter.dead_letter_id}`",
        f"`wallet dlq discard {letter.dead_letter_id} --reason …`",
    )
    if letter.took_effect_at is not None:
        if details.refusal is None:
            return [f"Its event took effect, so nothing is missing. {replay} closes it, and counts nothing twice."]
        return [f"Its event took effect, so nothing is missing, and a replay would fail again. {discard} closes it."]
    if details.refusal is None:
        return [f"This program can read it now: once its handler is fixed, {replay}."]
    if letter.kind is DeadLetterKind.PARKED:
        return [
            "Nobody is at fault: a newer program wrote it. A replay by this one would park it again.",
            f"Upgrade this program and its workers, then {replay}.",
        ]
    if details.waiting_event is None:
        return [f"A replay would fail again: {details.refusal}", f"Find out who sent it; then {discard} closes it."]
    wallet_id, version = details.waiting_event
    return [
        f"A replay would fail again: {details.refusal}",
        (
            f"Find out who sent it. The event that it names is in the log (wallet {wallet_id}, version {version}) "
            "and has had no effect: this message cannot apply the effect; run `wallet rebuild`."
        ),
        f"Then {discard} closes it; until then it is refused.",
    ]
