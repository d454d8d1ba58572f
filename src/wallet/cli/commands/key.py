"""`wallet key`: creates, lists, revokes and rotates API keys."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from wallet.access.principal import DESCRIPTIONS, RateLimit, Scope
from wallet.access.store import ApiKey, NewKey, create_key, list_keys, revoke_key, rotate_key
from wallet.access.tokens import KeyId, Token
from wallet.cli.app import Panel, app
from wallet.cli.errands import EXIT_DONE, give_up, print_json, run_errand
from wallet.cli.options import (
    Actor,
    AsJson,
    between,
    checked_text,
    decisions_logged,
    number_between,
    printable,
    user_of_this_process,
)
from wallet.cli.running_up import DATA, DataDirectory, find_system
from wallet.domain.identifiers import is_id
from wallet.postgres.connections import Connection
from wallet.postgres.session import session
from wallet.runtime.settings import load_settings

NAME_CHARACTERS_MAX: Final = 100
GRACE_HOURS: Final = 24.0
DAYS_MAX: Final = 36_500
LIMIT_MAX: Final = 1_000_000

key = typer.Typer(
    help="API keys: who may use the api, and for what. The secret is shown once, when the key is created.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(key, name="key", rich_help_panel=Panel.OPERATION)

Name = Annotated[str, typer.Option(help="Who or what uses the key.", callback=checked_text)]
Scopes = Annotated[
    list[Scope],
    typer.Option(
        "--scope",
        help="What the key allows; may be given more than once. "
        + "; ".join(f"{scope}: {description.replace('`', '')}" for scope, description in DESCRIPTIONS.items())
        + ".",
    ),
]
Prefixes = Annotated[
    list[str] | None,
    typer.Option(
        "--prefix",
        metavar="PREFIX",
        help="Only wallets whose id begins so, such as shop: ; may be given more than once. Any other wallet looks "
        "like one that does not exist.",
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(parser=number_between(0.001, LIMIT_MAX), metavar="N", help="Requests a second, on average."),
]
Burst = Annotated[
    int | None, typer.Option(parser=between(1, LIMIT_MAX), metavar="N", help="Requests at once; with --rate.")
]
Days = Annotated[
    float | None,
    typer.Option("--days", parser=number_between(0, DAYS_MAX), metavar="DAYS", help="How long it is valid."),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="The id in the list.")]
Result = TypeVar("Result")


@key.command()
def create(
    name: Name,
    scopes: Scopes,
    prefixes: Prefixes = None,
    rate: Rate = None,
    burst: Burst = None,
    days: Days = None,
    is_test: Annotated[bool, typer.Option("--test", help="Mark it as a key for tests: wlt_test_….")] = False,
    actor: Actor = None,
    as_json: AsJson = False,
    data: DataDirectory = DATA,
) -> None:
    """Create a key and print it. It can't be shown again: only its digest is stored.

    The first key ends the time in which an api on loopback serves everybody (AUTH=auto).

    Exit code 0: done. 2: a wrong call or value. 3: the database can't be reached.
    """
    if len(name) > NAME_CHARACTERS_MAX:
        give_up(f"--name has {len(name)} characters; at most {NAME_CHARACTERS_MAX} are kept.")
    if burst is not None and rate is None:
        give_up("--burst needs --rate: it says how many requests may come at once.")
    for prefix in prefixes or ():
        if not is_id(prefix):
            give_up(f"--prefix {prefix!r} is not the beginning of a wallet id.")
    limit = None if rate is None else RateLimit(rate, burst or max(1, round(rate)))
    lifetime = None if days is None else timedelta(days=days)
    new = NewKey(
        name=name,
        scopes=tuple(dict.fromkeys(scopes)),
        prefixes=tuple(dict.fromkeys(prefixes or ())),
        limit=limit,
        lifetime=lifetime,
        is_test=is_test,
    )

    def report(token: Token) -> None:
        _print_token(token, as_json=as_json)

    _run(data, lambda connection: create_key(connection, new, actor=actor or user_of_this_process()), report)


@key.command(name="list")
def list_(as_json: AsJson = False, data: DataDirectory = DATA) -> None:
    """List every key, also revoked and expired ones. Secrets are not stored, so they are not shown.

    Exit code 0: done. 3: the database can't be reached.
    """

    def report(keys: list[ApiKey]) -> None:
        if as_json:
            print_json({"keys": [_key_object(each) for each in keys]})
        elif keys:
            Console(highlight=False).print(_table(keys))
        else:
            typer.echo("There is no key. `wallet key create` creates one.")

    _run(data, list_keys, report)


@key.command()
def revoke(key_id: Id, actor: Actor = None, as_json: AsJson = False, data: DataDirectory = DATA) -> None:
    """Revoke a key, for good. Every api refuses it within 2 seconds.

    Exit code 0: done, or it was revoked before. 2: no such key. 3: the database can't be reached.
    """

    def report(before: ApiKey) -> None:
        if as_json:
            print_json({"id": key_id, "wasRevoked": before.revoked_at is not None})
        else:
            typer.echo(f"{key_id} {'was revoked before' if before.revoked_at else 'is revoked'}")

    _run(data, lambda connection: revoke_key(connection, KeyId(key_id), actor=actor or user_of_this_process()), report)


@key.command()
def rotate(
    key_id: Id,
    grace_hours: Annotated[
        float,
        typer.Option(
            parser=number_between(0, DAYS_MAX * 24), metavar="HOURS", help="How long the old key stays valid."
        ),
    ] = GRACE_HOURS,
    actor: Actor = None,
    as_json: AsJson = False,
    data: DataDirectory = DATA,
) -> None:
    """Create a key with the same permissions, and let the old one expire after a time.

    Exit code 0: done. 2: no such key, or it is not valid any more. 3: the database can't be reached.
    """

    def report(rotated: tuple[ApiKey, Token]) -> None:
        _print_token(rotated[1], as_json=as_json)
        if not as_json:
            typer.echo(f"{key_id} is valid for at most {grace_hours:g} hours more.", err=True)

    grace = timedelta(hours=grace_hours)
    _run(
        data,
        lambda connection: rotate_key(connection, KeyId(key_id), grace=grace, actor=actor or user_of_this_process()),
        report,
    )


def _run(data: Path, work: Callable[[Connection], Awaitable[Result]], report: Callable[[Result], None]) -> None:
    """Run the work on the wallet's database, report its result, and exit."""

    def errand() -> int:
        settings = find_system(load_settings(), data)
        with decisions_logged(settings, "key"):
            report(asyncio.run(_on_session(settings.dsn, work)))
        return EXIT_DONE

    again = "`wallet key list` shows the keys."
    sys.exit(run_errand(errand, interrupted=again, when_away=again))


async def _on_session(dsn: str, work: Callable[[Connection], Awaitable[Result]]) -> Result:
    async with session(dsn, application_name="wallet key") as connection:
        return await work(connection)


def _print_token(token: Token, *, as_json: bool) -> None:
    if as_json:
        print_json({"id": token.key_id, "key": token.text})
        return
    typer.echo(token.text)
    typer.echo(f"Its id is {token.key_id}. Store the key now: it is not shown again.", err=True)


def _key_object(each: ApiKey) -> dict[str, object]:
    return {
        "id": each.key_id,
        "name": each.name,
        "state": each.state,
        "scopes": each.scopes,
        "prefixes": each.prefixes,
        "rate": each.rate,
        "burst": each.burst,
        "createdAt": each.created_at.isoformat(),
        "createdBy": each.created_by,
        "expiresAt": _iso(each.expires_at),
        "revokedAt": _iso(each.revoked_at),
        "revokedBy": each.revoked_by,
        "replaces": each.replaces,
        "lastUsedAt": _iso(each.last_used_at),
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _table(keys: list[ApiKey]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("id", "name", "state", "scopes", "prefixes", "limit", "last used"):
        table.add_column(heading, overflow="fold")
    for each in keys:
        table.add_row(
            each.key_id,
            printable(each.name),
            each.state,
            " ".join(each.scopes),
            " ".join(each.prefixes) or "every wallet",
            "" if each.rate is None else f"{each.rate:g}/s, {each.burst} at once",
            "never" if each.last_used_at is None else f"{each.last_used_at:%Y-%m-%d %H:%M}",
        )
    return table
