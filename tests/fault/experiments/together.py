"""17: two or three faults at once, drawn at random, repeatedly, for a given time."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.fault.laboratory import Laboratory
from tests.support.broker import save_queue_directory
from tests.support.database import execute
from tests.support.postgres_proxy import Loss, PostgresProxy, with_probability
from tests.support.process_faults import suspend
from tests.support.processes import WalletProcess
from tests.support.waiting import pause

AT_ONCE = (2, 3)
ANSWERS_BETWEEN = 40
APIS = 2
SECONDS_MAX = 3.0
LEASE_OUTLASTED_SECONDS = 5.0
LOSS_PROBABILITY = 0.2
HONEST = {"201", "400", "404", "503", "no answer"}
END_BACKENDS = """
select count(pg_terminate_backend(pid)) from pg_stat_activity
where datname = current_database() and application_name like 'wallet%' and pid <> pg_backend_pid()
"""


@dataclass
class Site:
    """The system under test, and the ways to break it; each method repairs what it broke."""

    lab: Laboratory
    network: PostgresProxy
    relay: WalletProcess
    worker: WalletProcess

    async def kill_an_api(self) -> None:
        """Kill an api, and start it again as a supervisor would."""
        api = self.lab.draw.choice(self.lab.apis)
        await self.lab.kill(api)
        await self.lab.start_api(PORT=str(api.port))

    async def stop_an_api(self) -> None:
        """Stop an api by SIGTERM, and start it again."""
        api = self.lab.draw.choice(self.lab.apis)
        await self.lab.stop(api)
        await self.lab.start_api(PORT=str(api.port))

    async def kill_the_relay(self) -> None:
        """Kill the relay, and start another."""
        await self.lab.kill(self.relay)
        self.relay = await self.lab.start_relay()

    async def suspend_the_relay(self) -> None:
        """Suspend the relay until its lease has ended and a standby has taken over; then kill it."""
        async with suspend(self.relay):
            standby = await self.lab.start_relay()
            await pause(LEASE_OUTLASTED_SECONDS)
        await self.lab.kill(self.relay)
        self.relay = standby

    async def kill_the_worker(self) -> None:
        """Kill the worker, and start another."""
        await self.lab.kill(self.worker)
        self.worker = await self.lab.start_worker()

    async def suspend_the_worker(self) -> None:
        """Suspend the worker for a random time."""
        async with suspend(self.worker):
            await pause(self._a_while())

    async def restart_postgres(self) -> None:
        """Stop PostgreSQL by a fast shutdown, and start it after a pause."""
        await asyncio.to_thread(self.lab.postgres.stop)
        await pause(self._a_while())
        await asyncio.to_thread(self.lab.postgres.start)

    async def kill_postgres(self) -> None:
        """Kill the postmaster, and let PostgreSQL recover."""
        await asyncio.to_thread(self.lab.postgres.kill)
        await asyncio.to_thread(self.lab.postgres.start)

    async def end_backends(self) -> None:
        """Terminate every session at once."""
        await execute(self.lab.database_url, END_BACKENDS)

    async def lose_commits(self) -> None:
        """Lose some COMMITs, and the answers to others."""
        for loss in Loss:
            self.network.lose(loss, with_probability(LOSS_PROBABILITY, self.lab.draw))
        await pause(self._a_while())
        self.network.let_commits_pass()

    async def silence_the_network(self) -> None:
        """Stop all traffic between the apis and PostgreSQL; then break the connections, or let them continue."""
        self.network.silence()
        await pause(self._a_while())
        if self.lab.draw.randrange(2):
            self.network.cut()
        self.network.speak()

    async def slow_the_network(self) -> None:
        """Add a fifth of a second of latency in each direction."""
        self.network.slow(0.2)
        await pause(self._a_while())
        self.network.slow(0)

    async def restart_the_broker(self) -> None:
        """Stop the broker in order or by SIGKILL, and start it after a pause."""
        assert self.lab.broker is not None
        await asyncio.to_thread(save_queue_directory, self.lab.broker)
        ends = self.lab.draw.choice((self.lab.broker.stop, self.lab.broker.kill))
        await asyncio.to_thread(ends)
        await pause(self._a_while())
        await asyncio.to_thread(self.lab.broker.start)

    def _a_while(self) -> float:
        return self.lab.draw.uniform(0.2, SECONDS_MAX)


Break = Callable[[Site], Awaitable[None]]
TARGETS: tuple[tuple[Break, ...], ...] = (
    (Site.kill_an_api, Site.stop_an_api),
    (Site.kill_the_relay, Site.suspend_the_relay),
    (Site.kill_the_worker, Site.suspend_the_worker),
    (Site.restart_postgres, Site.kill_postgres, Site.end_backends),
    (Site.lose_commits, Site.silence_the_network, Site.slow_the_network),
    (Site.restart_the_broker,),
)
"""The targets, each with its faults; faults at the same time have different targets."""


async def break_several_things_at_once(lab: Laboratory) -> None:
    """No combination of faults breaks a promise."""
    lab.settings["TRANSFER_MODE"] = lab.draw_mode()
    ends_at = time.monotonic() + lab.seconds
    done: Counter[str] = Counter()
    async with PostgresProxy.to_server_of(lab.database_url) as network:
        behind = {"DATABASE_URL": network.url_of(lab.database_url)}
        lab.api_settings.update(behind)
        for _ in range(APIS):
            await lab.start_api()
        site = Site(lab, network, await lab.start_relay(), await lab.start_worker())
        async with lab.load(concurrency=12) as history:
            while not done or time.monotonic() < ends_at:
                targets = lab.draw.sample(TARGETS, lab.draw.choice(AT_ONCE))
                faults = [lab.draw.choice(target) for target in targets]
                done.update(fault.__name__ for fault in faults)
                await asyncio.gather(*(fault(site) for fault in faults))
                await history.more_answers(ANSWERS_BETWEEN)
        seen = lab.tries()
        assert set(seen) <= HONEST, f"a client saw more than latency, 503 and lost connections: {seen}"
        await lab.stop_apis()
    lab.api_settings.clear()
    await lab.start_api()
    lab.note(", ".join(f"{count} × {name.replace('_', ' ')}" for name, count in sorted(done.items())))
