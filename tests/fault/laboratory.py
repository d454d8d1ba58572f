"""One experiment's own system: a database, a broker's virtual host, and any number of the wallet's processes.

The servers belong to the run and are shared, but for those that an experiment breaks. Every process is started and
stopped by its process id. When the experiment is over, the laboratory waits for the system to come to rest, and
proves that every promise was kept.
"""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.fault.load import History, Start, load_on
from tests.fault.proof import Proof, prove, tries_of, wait_for_rest
from tests.support.books import fetch_value
from tests.support.postgres import PostgresServer
from tests.support.processes import Processes, WalletProcess
from tests.support.rabbitmq import RabbitMQServer
from tests.support.reaper import Reaper
from tests.support.waiting import eventually
from wallet.stress.exchanges import NoAnswer
from wallet.stress.operations import Plan

MODES = ("auto", "stepwise")
CONCURRENCY = 24
PUBLISHED_SECONDS_MAX = 60.0
READ_SECONDS_MAX = 30.0
UNPUBLISHED = "select count(*) from journal where published_at is null"
WALLET_COUNT = 20


@dataclass
class Laboratory:
    """What an experiment may use; everything random in it is drawn from its seed."""

    seed: int
    resources: ExitStack
    """What is entered here is left when the experiment is over and proved."""
    reaper: Reaper
    processes: Processes
    postgres: PostgresServer
    database_url: str
    broker: RabbitMQServer | None = None
    """None where the worker reads the journal: the embedded transport."""
    rabbitmq_url: str | None = None
    settings: dict[str, str] = field(default_factory=dict)
    api_settings: dict[str, str] = field(default_factory=dict)
    """What every api gets beside what all processes get."""
    seconds: float = 0.0
    """How long an experiment without an end of its own goes on."""
    has_dead_letters: bool = False
    """Whether the experiment makes dead letters; else there must be none."""
    histories: list[History] = field(default_factory=list)
    apis: list[WalletProcess] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    """Of every api so far."""
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        # From a text: the first choice of the smallest numbers is mostly the same.
        self.draw_of_modes = random.Random(f"{self.seed}/mode")

    async def start_api(self, **settings: str) -> WalletProcess:
        """One more api, ready; loads begun from now on send to it as well. One with a failpoint may have ended."""
        began = time.monotonic()
        api = await asyncio.to_thread(self.processes.start_api, **self._settings(self.api_settings | settings))
        self.starts.append((api.url, began))
        self.apis.append(api)
        return api

    async def start_relay(self, **settings: str) -> WalletProcess:
        """One more relay; as with the api."""
        return await asyncio.to_thread(self.processes.start_relay, **self._settings(settings))

    async def start_worker(self, **settings: str) -> WalletProcess:
        """One more worker; as with the api."""
        return await asyncio.to_thread(self.processes.start_worker, **self._settings(settings))

    async def have_been_read(self, count: int, api: WalletProcess) -> None:
        """Wait until an api has read so many requests, all of which wait for a wallet that is held."""
        await eventually(lambda: api.metrics()["wallet_ledger_queue_depth"] == count, within=READ_SECONDS_MAX)

    async def ended(self, process: WalletProcess, *, within: float = 30.0) -> None:
        """Wait until a failpoint killed a process; one that ended in another way was never there."""
        exit_code = await asyncio.to_thread(process.wait, within)
        assert exit_code == -signal.SIGKILL, f"{process.name} was not killed, but ended with {exit_code}"

    async def start_again(self, api: WalletProcess, **settings: str) -> WalletProcess:
        """Another api in the place of one that ended, on its port, as a supervisor would start it."""
        self.apis.remove(api)
        return await self.start_api(PORT=str(api.port), **settings)

    async def stop(self, process: WalletProcess) -> None:
        """Ask a process to stop by SIGTERM, and wait until it has ended, as it should."""
        if process in self.apis:
            self.apis.remove(process)
        exit_code = await asyncio.to_thread(process.stop)
        assert exit_code == 0, f"{process.name} was asked to stop, and ended with {exit_code}"

    async def kill(self, process: WalletProcess) -> None:
        """SIGKILL a process and its children."""
        if process in self.apis:
            self.apis.remove(process)
        await asyncio.to_thread(process.kill)

    @asynccontextmanager
    async def load(
        self,
        *,
        urls: Sequence[str] | None = None,
        concurrency: int = CONCURRENCY,
        wallet_count: int = WALLET_COUNT,
        count: int | None = None,
        bulk_senders: int = 1,
        pause_seconds: float = 0.0,
    ) -> AsyncIterator[History]:
        """Random requests to every api for as long as the block runs, or `count` of them; see load.py."""
        plan = Plan(self.seed, f"{self.seed:x}-{len(self.histories) + 1}", wallet_count)
        to = urls or [api.url for api in self.apis]
        async with load_on(
            to,
            self.database_url,
            plan,
            concurrency=concurrency,
            count=count,
            bulk_senders=bulk_senders,
            pause_seconds=pause_seconds,
        ) as history:
            history.starts = self.starts
            self.histories.append(history)
            yield history

    def fail_at(self, failpoint: str, mode: str, *, once_in: int) -> str:
        """A failpoint that acts at one of its first so many passes."""
        spec = f"{failpoint}={mode}@{self.draw.randint(1, once_in)}"
        self.note(spec)
        return spec

    def draw_mode(self) -> str:
        """Whether transfers are whole or stepwise; apis of one system may differ in it."""
        return self.draw_of_modes.choice(MODES)

    def tries(self) -> Counter[str]:
        """How often each status was seen so far, retried tries included."""
        return tries_of(self.histories)

    def reasons(self) -> Counter[str]:
        """Why tries got no answer."""
        return Counter(
            attempt.reason
            for history in self.histories
            for exchange in history.exchanges
            for attempt in exchange.tries
            if isinstance(attempt, NoAnswer)
        )

    async def stop_apis(self) -> None:
        """Stop every api, before the way to its database goes."""
        for api in list(self.apis):
            await self.stop(api)

    async def all_published(self) -> None:
        """Wait until the relay has published everything."""

        async def is_published() -> bool:
            return await fetch_value(self.database_url, UNPUBLISHED) == 0

        await eventually(is_published, within=PUBLISHED_SECONDS_MAX, every=0.1)

    def note(self, text: str) -> None:
        """Something that the report of the run tells."""
        self.notes.append(text)

    async def rest_and_prove(self) -> Proof:
        """Wait for rest after the last fault (I11), then hold I1 to I12 against history and database."""
        await self.at_rest()
        running = [process for process in self.processes.started if process.exit_code is None]
        return await prove(self.database_url, self.histories, running, self.exported_heads())

    async def at_rest(self) -> None:
        """Wait until nothing waits or hangs any more."""
        await wait_for_rest(self.database_url, self.apis, has_dead_letters=self.has_dead_letters)

    def exported_heads(self) -> Path | None:
        """The journal's heads that every relay exported so far, in one file."""
        lines = [path.read_text() for path in sorted(self.processes.directory.glob("*/logs/journal-heads.log"))]
        heads = self.processes.directory / "journal-heads.log"
        heads.write_text("".join(lines))
        return heads if any(lines) else None

    def _settings(self, settings: Mapping[str, str]) -> dict[str, str]:
        broker = {} if self.rabbitmq_url is None else {"RABBITMQ_URL": self.rabbitmq_url}
        return {"DATABASE_URL": self.database_url, **broker, **self.settings, **settings}
