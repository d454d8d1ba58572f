"""19: relay and workers change their transport one after the other, to the broker and back, killed or stopped."""

from dataclasses import dataclass, field

from tests.fault.laboratory import Laboratory
from tests.fault.load import History
from tests.support.database import fetch_value
from tests.support.processes import WalletProcess
from tests.support.waiting import eventually

WORKERS_MAX = 3
ANSWERS_BETWEEN = 30
DELIVERED_SECONDS_MAX = 40.0
PAUSE_SECONDS = 0.05
"""A pause between requests keeps the final check short: only commits around each change matter."""
LAST = "select coalesce(max(seq), 0) from journal"
UNDELIVERED = """
select count(*) from journal j join events e using (batch_id)
where j.seq <= $1 and not exists (
    select from processed_events p
    where p.bucket = e.bucket and p.event_id = e.event_id and p.status = 'success')
"""


@dataclass
class Transports:
    """The relay and the workers of a deployment, and which of them have the broker's address."""

    lab: Laboratory
    worker_count: int
    relay_has_broker: bool = False
    workers_have_broker: bool = False
    running: dict[str, list[WalletProcess]] = field(default_factory=lambda: {"relay": [], "worker": []})

    async def start(self, kind: str, *, has_broker: bool) -> None:
        """Start the relay or the workers, with or without the broker's address."""
        url = self.lab.rabbitmq_url if has_broker else None
        settings = {"RABBITMQ_URL": url or ""}
        if kind == "relay":
            self.relay_has_broker = has_broker
            self.running[kind].append(await self.lab.start_relay(**settings))
        else:
            self.workers_have_broker = has_broker
            for _ in range(self.worker_count):
                self.running[kind].append(await self.lab.start_worker(**settings))

    async def change(self, kind: str) -> None:
        """Switch the relay or all workers to the other transport; some are stopped, some are killed."""
        for process in self.running[kind]:
            end = self.lab.draw.choice((self.lab.stop, self.lab.kill))
            await end(process)
        self.running[kind].clear()
        await self.start(kind, has_broker=not (self.relay_has_broker if kind == "relay" else self.workers_have_broker))

    async def all_delivered(self) -> None:
        """Wait until every event committed so far has had its effect, whatever the transports are now."""
        last = await fetch_value(self.lab.database_url, LAST)

        async def is_delivered() -> bool:
            count = await fetch_value(self.lab.database_url, UNDELIVERED, last)
            assert count == 0, f"{count} events have no effect, {self}"
            return True

        await eventually(is_delivered, within=DELIVERED_SECONDS_MAX, every=0.1)

    def __str__(self) -> str:
        relay, workers = (
            "RabbitMQ" if has else "the journal" for has in (self.relay_has_broker, self.workers_have_broker)
        )
        return f"relay to {relay}, {self.worker_count} workers from {workers}"


async def change_the_transport(lab: Laboratory) -> None:
    """In both directions and orders, each event has its effect in every intermediate state, not only in the last."""
    assert lab.rabbitmq_url is not None
    await lab.start_api()
    transports = Transports(lab, lab.draw.randint(1, WORKERS_MAX))
    has_run_before = lab.draw.random() < 0.5
    lab.note(
        f"{transports.worker_count} workers; an embedded worker has {'' if has_run_before else 'never '}run before"
    )
    await transports.start("relay", has_broker=False)
    await transports.start("worker", has_broker=not has_run_before)
    async with lab.load(concurrency=8, pause_seconds=PAUSE_SECONDS) as history:
        if has_run_before:
            await _deliver(transports, history)
            await transports.change("worker")
        await _deliver(transports, history)
        await transports.change("relay")
        for direction in ("from RabbitMQ", "to RabbitMQ"):
            order = lab.draw.sample(("relay", "worker"), 2)
            lab.note(f"{direction}: {order[0]} first")
            for kind in order:
                await _deliver(transports, history)
                await transports.change(kind)
        await _deliver(transports, history)


async def _deliver(transports: Transports, history: History) -> None:
    await history.more_answers(ANSWERS_BETWEEN)
    await transports.all_delivered()
