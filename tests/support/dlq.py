"""`wallet dlq` for a test: as real processes, and its replay inside the test process where a race requires it."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from tests.support.broker import message_count
from tests.support.database import fetch_rows, fetch_value
from tests.support.processes import Processes, WalletProcess
from tests.support.worker import Wire, settings_for
from wallet.dead_letters.reading import dead_letter_ids, open_database
from wallet.dead_letters.replay import PATIENCE_SECONDS, Replay, ReplayedDeadLetter, remove_closed
from wallet.dead_letters.routes import open_route
from wallet.rabbitmq.topology import DEAD_LETTER_QUEUE

ACTOR = "ann"


@dataclass(frozen=True, slots=True)
class Said:
    """The output and the exit code of a command."""

    code: int
    output: str

    def __contains__(self, text: str) -> bool:
        return text in self.output


@dataclass(frozen=True, slots=True)
class Operator:
    """Runs `wallet dlq` and workers against one database and transport."""

    processes: Processes
    wire: Wire

    def begin(self, *arguments: str, failpoints: str = "", **settings: str) -> WalletProcess:
        """Start a command of `wallet dlq` without waiting."""
        return self.processes.start("dlq", *arguments, settings=self.settings(failpoints) | settings)

    async def dlq(self, *arguments: str, failpoints: str = "", **settings: str) -> Said:
        """Run a command of `wallet dlq` to its end."""
        return await ended(self.begin(*arguments, failpoints=failpoints, **settings))

    async def letters(self, *arguments: str) -> list[dict[str, Any]]:
        """Returns the dead letters in the output of `wallet dlq list --json`."""
        said = await self.dlq("list", "--json", *arguments)
        assert said.code == 0, said.output
        return list(json.loads(said.output)["letters"])

    def start_worker(self, failpoints: str = "") -> WalletProcess:
        """Start a worker process on this transport."""
        return self.processes.start_worker(**self.settings(failpoints))

    def settings(self, failpoints: str) -> dict[str, str]:
        """Returns the settings of every process."""
        return {
            "DATABASE_URL": self.wire.database_url,
            "RABBITMQ_URL": self.wire.rabbitmq_url or "",
            "WALLET_FAILPOINTS": failpoints,
        }


async def ended(process: WalletProcess) -> Said:
    """Wait until a process has ended by itself. Returns its output and exit code."""
    code = await asyncio.to_thread(process.wait)
    return Said(code, process.output())


async def replay(
    wire: Wire, *ids: int, is_forced: bool = False, patience_seconds: float = PATIENCE_SECONDS
) -> list[ReplayedDeadLetter]:
    """Replay these dead letters, or all that are open, inside the test process."""
    settings = settings_for(wire.database_url, wire.rabbitmq_url)
    async with open_database(wire.database_url) as connection, open_route(settings, connection) as route:
        chosen = [each for each in await dead_letter_ids(connection, with_closed=True) if each in ids]
        chosen = chosen or await dead_letter_ids(connection, with_closed=False)
        replaying = Replay(connection, route, actor=ACTOR, is_forced=is_forced, patience_seconds=patience_seconds)
        results = [each async for each in replaying.run(chosen)]
        if wire.rabbitmq_url is not None:
            await remove_closed(connection, wire.rabbitmq_url)
        return results


async def open_count(wire: Wire) -> int:
    """Returns how many dead letters are open."""
    return int(await fetch_value(wire.database_url, "select count(*) from dead_letters where state = 'open'"))


async def has_open(wire: Wire, count: int) -> bool:
    """Assert that this many dead letters are open and their queue has the same number. A condition to wait for."""
    assert await open_count(wire) == count
    if wire.rabbitmq_url is not None:
        assert await message_count(wire.rabbitmq_url, DEAD_LETTER_QUEUE) == count
    return True


async def states(wire: Wire) -> list[str]:
    """Returns the state of each dead letter, oldest first."""
    return [state for (state,) in await fetch_rows(wire.database_url, "select state from dead_letters order by id")]


async def happenings(wire: Wire, dead_letter_id: int) -> list[str]:
    """Returns the names of the entries in a dead letter's history."""
    history = await fetch_value(wire.database_url, "select history from dead_letters where id = $1", dead_letter_id)
    return [entry["what"] for entry in json.loads(history)]
