"""`wallet dlq`: its commands and their options."""

import sys
from typing import Annotated, Final

import typer

from wallet.cli.database import DATA, DataDirectory
from wallet.cli.operator import Actor, checked_text
from wallet.cli.options import AsJson, between

LIST_LIMIT_MAX: Final = 10_000

dlq = typer.Typer(
    help="Dead letters: messages that had no effect, kept with the reason. Look at them, replay them, discard them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

_LIMIT: Final = between(1, LIST_LIMIT_MAX)
_ID: Final = between(1, 2**63 - 1)
LetterNumber = Annotated[int, typer.Argument(help="Its id in the list.", parser=_ID, metavar="ID")]


@dlq.command(name="list")
def list_letters(
    with_closed: Annotated[bool, typer.Option("--all", help="Those replayed and discarded too.")] = False,
    limit: Annotated[int, typer.Option(help="How many at most, up to 10,000.", parser=_LIMIT, metavar="N")] = 50,
    as_json: AsJson = False,
    data: DataDirectory = DATA,
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
    as_json: AsJson = False,
    data: DataDirectory = DATA,
) -> None:
    """Show all about one: message, error, history, the event in the log and how they differ. Changes nothing."""
    from wallet.cli.dlq_screen import show_on_screen

    sys.exit(show_on_screen(data, letter_id, body_only=body_only, as_json=as_json))


@dlq.command()
def replay(
    letter_ids: Annotated[
        list[int] | None, typer.Argument(help="Which; --all for every open one.", parser=_ID, metavar="ID")
    ] = None,
    is_all: Annotated[bool, typer.Option("--all", help="Every letter that is open now.")] = False,
    is_forced: Annotated[bool, typer.Option("--force", help="Those replayed or discarded before, too.")] = False,
    actor: Actor = None,
    as_json: AsJson = False,
    data: DataDirectory = DATA,
) -> None:
    """Give messages to the worker again. Each takes effect once, however often it is replayed.

    Exit code 0: all are replayed. 1: one failed again, or could not be replayed. 2: a wrong call, id or setting.
    3: the database or the broker can't be reached.
    """
    from wallet.cli.dlq_screen import replay_on_screen

    if bool(letter_ids) == is_all:
        raise typer.BadParameter("name some letters, or say --all", param_hint="ID")
    if is_all and is_forced:
        raise typer.BadParameter("it takes back what was decided, so name the letters", param_hint="--force")
    sys.exit(replay_on_screen(data, letter_ids, actor=actor, is_forced=is_forced, as_json=as_json))


@dlq.command()
def discard(
    letter_ids: Annotated[list[int], typer.Argument(help="Which.", parser=_ID, metavar="ID")],
    reason: Annotated[str, typer.Option(help="Why they need not take effect; kept with them.", callback=checked_text)],
    actor: Actor = None,
    is_forced: Annotated[
        bool, typer.Option("--force", help="Also where the event is in the log and has had no effect.")
    ] = False,
    as_json: AsJson = False,
    data: DataDirectory = DATA,
) -> None:
    """Close letters without effect. Their messages are kept, and `replay --force` takes it back.

    A letter whose event is in the log and has had no effect is refused: replay it, or let `wallet rebuild` give the
    effect. With --force it is closed all the same; `wallet verify` and `GET /integrity` then name the event.

    Exit code 0: all are discarded. 1: one could not be. 2: a wrong call, id or setting. 3: the database can't be
    reached.
    """
    from wallet.cli.dlq_screen import discard_on_screen

    sys.exit(discard_on_screen(data, letter_ids, actor=actor, reason=reason, is_forced=is_forced, as_json=as_json))
