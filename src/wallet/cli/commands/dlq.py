"""`wallet dlq`: its commands and their options."""

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, assert_never

import typer
import uvloop

from wallet.cli.app import Panel, app
from wallet.cli.dlq_views import dead_letter_object, details_object, print_dead_letter, print_dead_letters
from wallet.cli.errands import EXIT_DONE, EXIT_FAILED, print_json, run_errand
from wallet.cli.options import (
    Actor,
    AsJson,
    between,
    checked_text,
    clipped,
    decisions_logged,
    printable,
    user_of_this_process,
)
from wallet.cli.running_up import DATA, DataDirectory, find_system
from wallet.dead_letters.details import read_details
from wallet.dead_letters.reading import (
    DeadLetter,
    DeadLetterId,
    DeadLetterKind,
    count_dead_letters,
    dead_letter_ids,
    open_database,
    read_dead_letter,
    read_dead_letters,
    read_message,
)
from wallet.dead_letters.replay import DiscardResult, Replay, ReplayedDeadLetter, ReplayResult, remove_closed
from wallet.dead_letters.replay import discard as discard_dead_letter
from wallet.dead_letters.routes import open_route
from wallet.postgres.connections import Connection
from wallet.rabbitmq.connection import BrokerUnavailable
from wallet.rabbitmq.topology import DEAD_LETTER_QUEUE
from wallet.runtime.failpoints import configure_failpoints
from wallet.runtime.settings import Settings, load_settings

LIST_LIMIT_MAX: Final = 10_000

dlq = typer.Typer(
    help="Dead letters: messages that had no effect, kept with the reason. Look at them, replay them, discard them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(dlq, name="dlq", rich_help_panel=Panel.OPERATION)

_LIMIT: Final = between(1, LIST_LIMIT_MAX)
_ID: Final = between(1, 2**63 - 1)
DeadLetterNumber = Annotated[int, typer.Argument(help="Its id in the list.", parser=_ID, metavar="ID")]


@dlq.command(name="list")
def list_dead_letters(
    with_closed: Annotated[bool, typer.Option("--all", help="Those replayed and discarded too.")] = False,
    limit: Annotated[int, typer.Option(help="How many at most, up to 10,000.", parser=_LIMIT, metavar="N")] = 50,
    as_json: AsJson = False,
    data: DataDirectory = DATA,
) -> None:
    """List the open dead letters, oldest first. Read-only."""
    sys.exit(list_on_screen(data, with_closed=with_closed, limit=limit, as_json=as_json))


@dlq.command()
def show(
    dead_letter_id: DeadLetterNumber,
    body_only: Annotated[
        bool, typer.Option("--body", help="Write the message's body alone, byte for byte, to a file or a pipe.")
    ] = False,
    as_json: AsJson = False,
    data: DataDirectory = DATA,
) -> None:
    """Show all about one: message, error, history, the event in the log and how they differ. Read-only."""
    sys.exit(show_on_screen(data, dead_letter_id, body_only=body_only, as_json=as_json))


@dlq.command()
def replay(
    dead_letter_ids: Annotated[
        list[int] | None, typer.Argument(help="Which; --all for every open one.", parser=_ID, metavar="ID")
    ] = None,
    is_all: Annotated[bool, typer.Option("--all", help="All open dead letters.")] = False,
    is_forced: Annotated[bool, typer.Option("--force", help="Those replayed or discarded before, too.")] = False,
    actor: Actor = None,
    as_json: AsJson = False,
    data: DataDirectory = DATA,
) -> None:
    """Give messages to the worker again. Each takes effect once, however often it is replayed.

    Exit code 0: all are replayed. 1: one failed again, or could not be replayed. 2: a wrong call, id or setting.
    3: the database or the broker can't be reached.
    """
    if bool(dead_letter_ids) == is_all:
        raise typer.BadParameter("give the ids of dead letters, or --all", param_hint="ID")
    if is_all and is_forced:
        raise typer.BadParameter("--force reverses a decision, so give the ids", param_hint="--force")
    sys.exit(replay_on_screen(data, dead_letter_ids, actor=actor, is_forced=is_forced, as_json=as_json))


@dlq.command()
def discard(
    dead_letter_ids: Annotated[list[int], typer.Argument(help="Which.", parser=_ID, metavar="ID")],
    reason: Annotated[str, typer.Option(help="Why they need not take effect; kept with them.", callback=checked_text)],
    actor: Actor = None,
    is_forced: Annotated[
        bool, typer.Option("--force", help="Also where the event is in the log and has had no effect.")
    ] = False,
    as_json: AsJson = False,
    data: DataDirectory = DATA,
) -> None:
    """Close dead letters without effect. The messages are kept; `replay --force` reverses the discard.

    A dead letter whose event is in the log and has had no effect is refused: replay it, or let `wallet rebuild` give
    the effect. With --force it is closed all the same; `wallet verify` and `GET /integrity` then name the event.

    Exit code 0: all are discarded. 1: one could not be. 2: a wrong call, id or setting. 3: the database can't be
    reached.
    """
    sys.exit(discard_on_screen(data, dead_letter_ids, actor=actor, reason=reason, is_forced=is_forced, as_json=as_json))


ERROR_CHARACTERS_SHOWN: Final = 300

Work = Callable[[Settings, "Connection"], Awaitable[int]]


def list_on_screen(data: Path, *, with_closed: bool, limit: int, as_json: bool) -> int:
    """List dead letters. Returns the exit code, as do the three functions below."""

    async def work(_settings: Settings, connection: Connection) -> int:
        letters = await read_dead_letters(
            connection, await dead_letter_ids(connection, with_closed=with_closed, limit=limit)
        )
        count = await count_dead_letters(connection, with_closed=with_closed)
        print_dead_letters(letters, not_shown=max(0, count - len(letters)), with_closed=with_closed, as_json=as_json)
        return EXIT_DONE

    return _run(data, work)


def show_on_screen(data: Path, dead_letter_id: int, *, body_only: bool, as_json: bool) -> int:
    """Show one dead letter, or write only its body."""

    async def work(_settings: Settings, connection: Connection) -> int:
        if body_only:
            sys.stdout.buffer.write((await read_message(connection, DeadLetterId(dead_letter_id))).body)
            return EXIT_DONE
        details = await read_details(connection, DeadLetterId(dead_letter_id))
        if as_json:
            print_json(details_object(details))
        else:
            print_dead_letter(details)
        return EXIT_DONE

    return _run(data, work)


def replay_on_screen(
    data: Path, ids: Sequence[int] | None, *, actor: str | None, is_forced: bool, as_json: bool
) -> int:
    """Replay these dead letters, or all that are open."""

    async def work(settings: Settings, connection: Connection) -> int:
        chosen = await _chosen(connection, ids)
        results: list[ReplayedDeadLetter] = []
        async with open_route(settings, connection) as route:
            replay = Replay(connection, route, actor=actor or user_of_this_process(), is_forced=is_forced)
            try:
                async for replayed in replay.run(chosen):
                    results.append(replayed)
                    if not as_json:
                        _tell_replayed(replayed)
            finally:
                if as_json:
                    print_json(_replayed_object(results, len(chosen)))
                elif len(chosen) != 1:
                    print(_summary(results, len(chosen)))
        await _remove_closed(settings, connection, tells=not as_json)
        return EXIT_DONE if all(each.result.is_replayed for each in results) else EXIT_FAILED

    return _run(data, work, is_logged=True)


def discard_on_screen(
    data: Path, ids: Sequence[int], *, actor: str | None, reason: str, is_forced: bool, as_json: bool
) -> int:
    """Discard these dead letters."""

    async def work(settings: Settings, connection: Connection) -> int:
        code, results = EXIT_DONE, list[dict[str, Any]]()
        for dead_letter_id in await _chosen(connection, ids):
            letter, found = await discard_dead_letter(
                connection, dead_letter_id, actor=actor or user_of_this_process(), reason=reason, is_forced=is_forced
            )
            results.append({"result": found.name.lower(), "letter": dead_letter_object(letter)})
            if not as_json:
                _print_discarded(letter, found)
            if found in (DiscardResult.WAS_REPLAYED, DiscardResult.REFUSED):
                code = EXIT_FAILED
        if as_json:
            print_json({"letters": results})
        await _remove_closed(settings, connection, tells=not as_json)
        return code

    return _run(data, work, is_logged=True)


def _run(data: Path, work: Work, *, is_logged: bool = False) -> int:
    def connect_and_work() -> int:
        given = load_settings()
        configure_failpoints(given.wallet_failpoints)
        settings = find_system(given, data)
        with decisions_logged(settings, "dlq") if is_logged else nullcontext():
            return uvloop.run(_connected(settings.dsn, partial(work, settings)))

    open_still = "What was not replayed or discarded is still open: run this again when it is back."
    return run_errand(connect_and_work, interrupted="what was not done is still open", when_away=open_still)


async def _connected(dsn: str, work: Callable[[Connection], Awaitable[int]]) -> int:
    async with open_database(dsn) as connection:
        return await work(connection)


async def _chosen(connection: Connection, ids: Sequence[int] | None) -> list[DeadLetterId]:
    """Returns the requested dead letters, each once, in the given order, or all open ones if none are given. Raises
    NoSuchDeadLetter.
    """
    if ids is None:
        return await dead_letter_ids(connection, with_closed=False)
    chosen = [DeadLetterId(dead_letter_id) for dead_letter_id in dict.fromkeys(ids)]
    for dead_letter_id in chosen:
        await read_dead_letter(connection, dead_letter_id)
    return chosen


async def _remove_closed(settings: Settings, connection: Connection, *, tells: bool) -> None:
    """Remove the messages of closed dead letters from the queue. This is only clean-up: its failure undoes nothing."""
    if settings.amqp_url is None:
        return
    try:
        count = await remove_closed(connection, settings.amqp_url)
    except BrokerUnavailable as error:
        reason = f"{DEAD_LETTER_QUEUE} was not tidied; the next replay or discard does it"
        print(f"wallet: {reason}. {error}", file=sys.stderr)
        return
    if count and tells:
        print(f"{count} {'message' if count == 1 else 'messages'} taken out of {DEAD_LETTER_QUEUE}")


def _print_discarded(letter: DeadLetter, found: DiscardResult) -> None:
    match found:
        case DiscardResult.NOW:
            print(f"{_name(letter)}: {found.value}")
        case DiscardResult.REFUSED:
            print(
                f"{_name(letter)}: {found.value}\n"
                f"    `wallet dlq replay {letter.dead_letter_id}` gives it; "
                "if the replay fails, `wallet rebuild` does.\n"
                "    --force discards it all the same"
            )
        case DiscardResult.BEFORE | DiscardResult.WAS_REPLAYED:
            print(f"{_name(letter)}: {found.value}{_closing(letter)}")


_RESULT_TEXTS: Final[Mapping[ReplayResult, str]] = {
    ReplayResult.TOOK_EFFECT: "took effect",
    ReplayResult.HAD_EFFECT: "had taken effect before: nothing changed",
    ReplayResult.PUBLISHED: "published",
    ReplayResult.FAILED_AGAIN: "failed again",
    ReplayResult.WAS_REPLAYED: "was replayed already",
    ReplayResult.WAS_DISCARDED: "was discarded",
}


def _tell_replayed(replayed: ReplayedDeadLetter) -> None:
    letter, text = replayed.letter, _RESULT_TEXTS[replayed.result]
    match replayed.result:
        case ReplayResult.WAS_REPLAYED:
            print(f"{_name(letter)}: {text}{_closing(letter)}")
        case ReplayResult.WAS_DISCARDED:
            print(f"{_name(letter)}: {text}{_closing(letter)}\n    --force replays it anyway")
        case ReplayResult.FAILED_AGAIN:
            failed = "parked again" if letter.kind is DeadLetterKind.PARKED else text
            print(f"{_name(letter)}: {failed}, and stays open\n    {_first_line(letter.error)}")
        case ReplayResult.PUBLISHED if letter.took_effect_at is not None:
            print(f"{_name(letter)}: {text}; its event had taken effect before, so nothing more is counted")
        case ReplayResult.PUBLISHED:
            print(f"{_name(letter)}: {text}; no worker has reported a result yet")
        case ReplayResult.TOOK_EFFECT | ReplayResult.HAD_EFFECT:
            print(f"{_name(letter)}: {text}")
        case other:
            assert_never(other)


def _replayed_object(results: Sequence[ReplayedDeadLetter], count: int) -> dict[str, Any]:
    return {
        "letters": [
            {"result": each.result.name.lower(), "letter": dead_letter_object(each.letter)} for each in results
        ],
        "notTried": count - len(results),
    }


def _summary(results: Sequence[ReplayedDeadLetter], count: int) -> str:
    if not count:
        return "no open dead letters"
    counts = {result: sum(each.result is result for each in results) for result in ReplayResult}
    parts = [f"{number} {_RESULT_TEXTS[result]}" for result, number in counts.items() if number]
    if len(results) < count:
        parts.append(f"{count - len(results)} not tried")
    return f"{count} {'dead letter' if count == 1 else 'dead letters'}: {'; '.join(parts)}"


def _name(letter: DeadLetter) -> str:
    told = [printable(letter.type) if letter.type else "message", str(letter.event_id) if letter.event_id else ""]
    return f"{letter.dead_letter_id}  {' '.join(filter(None, told))}"


def _closing(letter: DeadLetter) -> str:
    """Returns who closed the dead letter, when and why."""
    who = f" by {printable(letter.actor)}" if letter.actor else ""
    why = f": {printable(letter.reason)}" if letter.reason else ""
    return f"{who} at {letter.updated_at:%Y-%m-%d %H:%M:%S} UTC{why}"


def _first_line(text: str) -> str:
    return clipped(printable(text.strip().partition("\n")[0]), ERROR_CHARACTERS_SHOWN)
