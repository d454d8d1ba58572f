"""One experiment's own system: a database, a broker's virtual host, and any number of the wallet's processes.

The servers belong to the run and are shared, except those that an experiment breaks. Every process is stopped by its
process id. After the experiment, the laboratory waits until the system has come to rest, and checks that every
promise was kept.
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
from tests.support.database import fetch_value
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
    """The system and the tools of an experiment; all random choices are drawn from its seed."""

    seed: int
    resources: ExitStack
    """Context managers that are entered here are closed after the experiment was checked."""
    reaper: Reaper
    processes: Processes
    postgres: PostgresServer
    database_url: str
    broker: RabbitMQServer | None = None
    """None where the worker reads the journal: the embedded transport."""
    rabbitmq_url: str | None = None
    settings: dict[str, str] = field(default_factory=dict)
    api_settings: dict[str, str] = field(default_factory=dict)
    """Settings of every api, in addition to those of all processes."""
    seconds: float = 0.0
    """The duration of an experiment that has no end by itself."""
    has_dead_letters: bool = False
    """Whether the experiment causes dead letters; otherwise there must be none."""
    histories: list[History] = field(default_factory=list)
    apis: list[WalletProcess] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    """The starts of every api so far."""
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        # The seed is a text, because with small numbers as seeds the first choice is mostly the same.
        self.draw_of_modes = random.Random(f"{self.seed}/mode")

    async def start_api(self, **settings: str) -> WalletProcess:
        """Start another api and wait until it is ready, or has ended by a failpoint; later loads send to it too."""
        began = time.monotonic()
        api = await asyncio.to_thread(self.processes.start_api, **self._settings(self.api_settings | settings))
        self.starts.append((api.url, began))
        self.apis.append(api)
        return api

    async def start_relay(self, **settings: str) -> WalletProcess:
        """Start another relay, like an api."""
        return await asyncio.to_thread(self.processes.start_relay, **self._settings(settings))

    async def start_worker(self, **settings: str) -> WalletProcess:
        """Start another worker, like an api."""
        return await asyncio.to_thread(self.processes.start_worker, **self._settings(settings))

    async def have_been_read(self, count: int, api: WalletProcess) -> None:
        """Wait until an api has read this many requests, which all wait for a locked wallet."""
        await eventually(lambda: api.metrics()["wallet_ledger_queue_depth"] == count, within=READ_SECONDS_MAX)

    async def ended(self, process: WalletProcess, *, within: float = 30.0) -> None:
        """Wait until a failpoint has killed a process. Another way of ending means that it did not get there."""
        exit_code = await asyncio.to_thread(process.wait, within)
        assert exit_code == -signal.SIGKILL, f"{process.name} was not killed, but ended with {exit_code}"

    async def start_again(self, api: WalletProcess, **settings: str) -> WalletProcess:
        """Replace an api that has ended by another on its port, as a supervisor would."""
        self.apis.remove(api)
        return await self.start_api(PORT=str(api.port), **settings)

    async def stop(self, process: WalletProcess) -> None:
        """Stop a process by SIGTERM, and wait until it has ended with exit code 0."""
        if process in self.apis:
            self.apis.remove(process)
        exit_code = await asyncio.to_thread(process.stop)
        assert exit_code == 0, f"{process.name} was asked to stop, and ended with {exit_code}"

    async def kill(self, process: WalletProcess) -> None:
        """Kill a process and its children with SIGKILL."""
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
        """Send random requests to every api as long as the block runs, or `count` of them; see load.py."""
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
        """Returns a failpoint that acts at a random one of its first `once_in` passes."""
        spec = f"{failpoint}={mode}@{self.draw.randint(1, once_in)}"
        self.note(spec)
        return spec

    def draw_mode(self) -> str:
        """Returns a random TRANSFER_MODE; the apis of one system may have different modes."""
        return self.draw_of_modes.choice(MODES)

    def tries(self) -> Counter[str]:
        """Returns how often each status was received so far, including attempts that were retried."""
        return tries_of(self.histories)

    def reasons(self) -> Counter[str]:
        """Returns the reasons why attempts got no answer, with their counts."""
        return Counter(
            attempt.reason
            for history in self.histories
            for exchange in history.exchanges
            for attempt in exchange.tries
            if isinstance(attempt, NoAnswer)
        )

    async def stop_apis(self) -> None:
        """Stop every api, before the proxy to its database ends."""
        for api in list(self.apis):
            await self.stop(api)

    async def all_published(self) -> None:
        """Wait until the relay has published everything."""

        async def is_published() -> bool:
            return bool(await fetch_value(self.database_url, UNPUBLISHED) == 0)

        await eventually(is_published, within=PUBLISHED_SECONDS_MAX, every=0.1)

    def note(self, text: str) -> None:
        """Add a line to the report of the run."""
        self.notes.append(text)

    async def rest_and_prove(self) -> Proof:
        """Wait until the system is at rest after the last fault (I11), then check I1 to I12 on history and database."""
        await self.at_rest()
        running = [process for process in self.processes.started if process.exit_code is None]
        return await prove(self.database_url, self.histories, running, self.exported_heads())

    async def at_rest(self) -> None:
        """Wait until no event waits and no session hangs."""
        await wait_for_rest(self.database_url, self.apis, has_dead_letters=self.has_dead_letters)

    def exported_heads(self) -> Path | None:
        """Write the heads that all relays exported so far into one file. Returns its path, or None without heads."""
        lines = [path.read_text() for path in sorted(self.processes.directory.glob("*/logs/journal-heads.log"))]
        heads = self.processes.directory / "journal-heads.log"
        heads.write_text("".join(lines))
        return heads if any(lines) else None

    def _settings(self, settings: Mapping[str, str]) -> dict[str, str]:
        broker = {} if self.rabbitmq_url is None else {"RABBITMQ_URL": self.rabbitmq_url}
        return {"DATABASE_URL": self.database_url, **broker, **self.settings, **settings}
