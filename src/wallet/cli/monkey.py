"""`wallet monkey`: the stress tool's options."""

import random
import secrets
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from wallet.cli.checkout import give_up

SEEDS = 2**32


def monkey(
    url: Annotated[str, typer.Option(help="The service to try: any with the wallet's routes.")] = (
        "http://127.0.0.1:3000"
    ),
    requests: Annotated[int, typer.Option(help="How many requests to send.", min=1)] = 1000,
    concurrency: Annotated[int, typer.Option(help="How many of them at once.", min=1, max=10_000)] = 100,
    wallets: Annotated[int, typer.Option(help="Over how many wallets; few make them hot.", min=2)] = 20,
    seed: Annotated[int | None, typer.Option(help="Sends the operations of an earlier run again.")] = None,
    patience: Annotated[float, typer.Option(help="Seconds to go on asking where nothing moves.", min=0)] = 30.0,
) -> None:
    """Stress a wallet service with random money, then prove that none was lost.

    Exit code 0: every promise was kept. 1: something is off. 2: the service can't be reached.
    """
    if find_spec("aiohttp") is None:
        give_up("the stress tool's HTTP client is not installed: pip install 'wallet-service[stress]'")
    # The HTTP client is loaded only where it is needed: the other commands start faster without it.
    from wallet.cli.monkey_screen import run_on_screen
    from wallet.monkey.run import Options

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
    )
    sys.exit(run_on_screen(options))
