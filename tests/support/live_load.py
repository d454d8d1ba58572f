"""Commands that are sent continuously while a test does something else."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.ledger import deposit, send, transfer, withdraw
from wallet.domain.commands import Command
from wallet.ledger.ledger import Ledger

WALLETS = [f"wallet-{number}" for number in range(12)]


@asynccontextmanager
async def load_on(*ledgers: Ledger, seed: int, callers: int = 16) -> AsyncIterator[None]:
    """Send random commands from several callers, one after another each, as long as the block runs."""
    stop = asyncio.Event()
    draw = random.Random(seed)

    async def call(ledger: Ledger) -> None:
        while not stop.is_set():
            await send(ledger, random_command(draw))

    async with asyncio.TaskGroup() as calling:
        for number in range(callers):
            calling.create_task(call(ledgers[number % len(ledgers)]))
        try:
            yield
        finally:
            stop.set()


def random_command(draw: random.Random) -> Command:
    """Returns a deposit, a withdrawal (which may be too large or suspicious) or a transfer."""
    one, two = draw.sample(WALLETS, 2)
    match draw.randrange(3):
        case 0:
            return deposit(one, draw.choice((1, 500, 20_000)))
        case 1:
            return withdraw(one, draw.choice((1, 20, 10_000)))
        case _:
            return transfer(one, two, draw.randint(1, 50))
