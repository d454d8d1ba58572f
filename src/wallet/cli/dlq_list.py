"""The list of dead letters: a table for people, a JSON object for scripts."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wallet.cli.errands import print_json
from wallet.cli.printable import clipped, printable
from wallet.dead_letters.letters import Kind, Letter

TYPE_CHARACTERS_SHOWN: Final = 40
ERROR_CHARACTERS_SHOWN: Final = 160
WALLET_CHARACTERS_SHOWN: Final = 40
_UNLIMITED: Final = 10_000


def tell_letters(letters: Sequence[Letter], *, not_shown: int, with_closed: bool, as_json: bool) -> None:
    """Print the letters, and how many more there are."""
    if as_json:
        print_json({"letters": [letter_object(letter) for letter in letters], "notShown": not_shown})
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


def state_of(letter: Letter) -> str:
    """Its state in one word; `parked` is open, and nobody's fault."""
    return letter.kind.value if letter.is_open and letter.kind is Kind.PARKED else letter.state.value


def _table(letters: Sequence[Letter], *, date_separator: str) -> Table:
    """A row of a few lines for each letter. With the date on two lines it fits on 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("since (UTC)", no_wrap=True)
    table.add_column("tries", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("event, wallet, error", overflow="fold")
    for letter in letters:
        table.add_row(
            str(letter.letter_id),
            f"{letter.created_at:%Y-%m-%d}{date_separator}{letter.created_at:%H:%M:%S}",
            str(letter.attempts),
            _state_cell(letter),
            Text("\n".join(_told(letter))),
        )
    return table


def _told(letter: Letter) -> Iterator[str]:
    wallet = f"wallet {clipped(letter.wallet_id, WALLET_CHARACTERS_SHOWN)}" if letter.wallet_id else "no wallet"
    yield f"{_type(letter)}, {wallet}"
    if letter.event_id is not None:
        yield str(letter.event_id)
    yield _error(letter)


def _state_cell(letter: Letter) -> Text:
    style = {"open": "bold red", "parked": "bold yellow", "replayed": "green"}.get(state_of(letter), "dim")
    cell = Text(state_of(letter), style=style)
    if letter.took_effect_at is not None:
        cell.append("\ntook effect", style="green")
    return cell


def _lines(letters: Sequence[Letter]) -> Iterator[str]:
    """A line for each letter, in columns, for a pipe or a file."""
    rows = [("id", "since (UTC)", "tries", "state", "effect", "type", "event", "wallet", "error")]
    rows += [
        (
            str(letter.letter_id),
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


def _type(letter: Letter) -> str:
    return clipped(printable(letter.type or "no type"), TYPE_CHARACTERS_SHOWN)


def _error(letter: Letter) -> str:
    return clipped(printable(letter.error.strip().partition("\n")[0]), ERROR_CHARACTERS_SHOWN)


def _legend(letters: Sequence[Letter]) -> Iterator[str]:
    if any(state_of(letter) == "parked" for letter in letters):
        yield "parked: a newer program wrote it; replay it when one runs here that knows it"
    if any(letter.is_open and letter.took_effect_at for letter in letters):
        yield "took effect: the event it names has counted all the same, so nothing is missing"
    yield "wallet dlq show ID   wallet dlq replay ID | --all   wallet dlq discard ID --reason WHY"


def letter_object(letter: Letter) -> dict[str, Any]:
    """One dead letter for scripts."""
    return {
        "id": letter.letter_id,
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
