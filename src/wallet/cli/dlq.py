"""`wallet dlq`: its commands and their options."""

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from wallet.cli.database import DataDirectory
from wallet.cli.operator import Actor, checked_text

LIST_LIMIT_MAX: Final = 10_000

dlq = typer.Typer(
    help="Dead letters: messages that had no effect, kept with the reason. Look at them, replay them, discard them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

LetterNumber = Annotated[int, typer.Argument(metavar="ID", help="Its id in the list.", min=1, max=2**63 - 1)]


@dlq.command(name="list")
def list_letters(
    with_closed: Annotated[bool, typer.Option("--all", help="Those replayed and discarded too.")] = False,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=LIST_LIMIT_MAX)] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON object.")] = False,
    data: DataDirectory = Path("data"),
) -> None:
    """List the open dead letters, oldest first. Changes nothing, however often."""
    from wallet.cli.dlq_screen import list_on_screen

    sys.exit(list_on_screen(data, with_closed=with_closed, limit=limit, as_json=as_json))


@dlq.command()
def show(
    letter_id: LetterNumber,
    body_only: Annotated[
        bool, typer.Option("--body", help="Write the message's body alone, byte for byte, to a file or a pipe.")
    ] = False,
    data: DataDirectory = Path("data"),
) -> None:
    """Show all about one: message, error, history, the event in the log and how they differ. Changes nothing."""
    from wallet.cli.dlq_screen import show_on_screen

    sys.exit(show_on_screen(data, letter_id, body_only=body_only))


@dlq.command()
def replay(
    letter_ids: Annotated[
        list[int] | None, typer.Argument(metavar="ID", help="Which; --all for every open one.", min=1, max=2**63 - 1)
    ] = None,
    is_all: Annotated[bool, typer.Option("--all", help="Every letter that is open now.")] = False,
    is_forced: Annotated[bool, typer.Option("--force", help="Those replayed or discarded before, too.")] = False,
    actor: Actor = None,
    data: DataDirectory = Path("data"),
) -> None:
    """Give messages to the worker again. Each takes effect once, however often it is replayed.

    Exit code 0: all are replayed. 1: one failed again, or could not be replayed.
    """
    from wallet.cli.dlq_screen import replay_on_screen

    if bool(letter_ids) == is_all:
        raise typer.BadParameter("name some letters, or say --all", param_hint="ID")
    if is_all and is_forced:
        raise typer.BadParameter("it takes back what was decided, so name the letters", param_hint="--force")
    sys.exit(replay_on_screen(data, letter_ids, actor=actor, is_forced=is_forced))


@dlq.command()
def discard(
    letter_ids: Annotated[list[int], typer.Argument(metavar="ID", help="Which.", min=1, max=2**63 - 1)],
    reason: Annotated[str, typer.Option(help="Why they need not take effect; kept with them.", callback=checked_text)],
    actor: Actor = None,
    is_forced: Annotated[
        bool, typer.Option("--force", help="Also where the event is in the log and has had no effect.")
    ] = False,
    data: DataDirectory = Path("data"),
) -> None:
    """Close letters without effect. Their messages are kept, and `replay --force` takes it back.

    A letter whose event is in the log and has had no effect is refused: replay it, or let `wallet rebuild` give the
    effect. With --force it is closed all the same; `wallet verify` and `GET /audit` then name the event.

    Exit code 0: all are discarded. 1: one could not be.
    """
    from wallet.cli.dlq_screen import discard_on_screen

    sys.exit(discard_on_screen(data, letter_ids, actor=actor, reason=reason, is_forced=is_forced))
