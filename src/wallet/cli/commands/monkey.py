"""`wallet monkey`: the options of the stress tool."""

import random
import secrets
import sys
from importlib.util import find_spec
from typing import Annotated, Final

import typer

from wallet.cli.app import Panel, app
from wallet.cli.errands import give_up
from wallet.cli.options import AsJson, between, duration
from wallet.cli.running_up import SeveralRun, find_running_up

SEEDS: Final = 2**32
DEFAULT_URL: Final = "http://127.0.0.1:3000"


@app.command(rich_help_panel=Panel.DEVELOPMENT)
def monkey(
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The service to try: any with the wallet's routes. The default is a `wallet up` that runs here, "
            f"else {DEFAULT_URL}.",
        ),
    ] = None,
    requests: Annotated[int, typer.Option(help="How many requests to send.", parser=between(1), metavar="N")] = 1000,
    concurrency: Annotated[
        int, typer.Option(help="How many of them at once, up to 10,000.", parser=between(1, 10_000), metavar="N")
    ] = 100,
    wallets: Annotated[
        int, typer.Option(help="Over how many wallets, at least 2; few make them hot.", parser=between(2), metavar="N")
    ] = 20,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Sends the operations of an earlier run again.")] = None,
    patience: Annotated[
        float,
        typer.Option(help="How long to retry without progress.", parser=duration, metavar="SECONDS"),
    ] = 30.0,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="WALLET_KEY",
            metavar="KEY",
            help="The API key to send, where the service needs one, with the scopes read, deposit, withdraw, transfer. "
            "Better in the environment than on the command line, which other users can see.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Stress a wallet service with random money, then prove that none was lost.

    Exit code 0: every promise was kept. 1: something is off. 2: a wrong call. 3: the service can't be reached.
    """
    if find_spec("aiohttp") is None:
        give_up("the stress tool's HTTP client is not installed: pip install 'wallet-service[stress]'")
    # The HTTP client is loaded only where it is needed: the other commands start faster without it.
    from wallet.cli.monkey_screen import run_on_screen
    from wallet.stress.run import Options

    url = url or _default_url()
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{url!r} must begin with http:// or https://", param_hint="--url")
    options = Options(
        url=url,
        request_count=requests,
        concurrency=concurrency,
        wallet_count=wallets,
        seed=random.SystemRandom().randrange(SEEDS) if seed is None else seed,
        run_id=secrets.token_hex(4),
        patience_seconds=patience,
        api_key=key,
    )
    sys.exit(run_on_screen(options, as_json=as_json))


def _default_url() -> str:
    try:
        up = find_running_up()
    except SeveralRun as error:
        give_up(f"{error}, or give --url.")
    return DEFAULT_URL if up is None else up.url
