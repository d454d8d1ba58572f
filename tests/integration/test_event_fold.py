"""The log is enough: decoding and folding the stored events of a wallet gives its row."""

import json
import random
from datetime import timedelta
from decimal import Decimal

from tests.support.database import fetch_rows
from tests.support.ledger import deposit, running_ledger, send, transfer, withdraw
from tests.support.verification import faults_of
from tests.support.written_books import write_books
from wallet.domain.commands import COMMANDS, Command
from wallet.domain.events import EVENT_TYPES, decode_event, type_of
from wallet.domain.identifiers import WalletId
from wallet.domain.money import ZERO, add, times
from wallet.domain.wallet import Wallet, evolve, initial
from wallet.ledger.ledger import Ledger

SEED = 20261127
EVENTS = "select wallet_id, type, payload::text, occurred_at, balance_after from events order by wallet_id, version"
WALLETS = f"select {', '.join(Wallet.__struct_fields__)} from wallets where version > 0"


async def move_at_random(ledger: Ledger, draw: random.Random, count: int) -> None:
    wallets = [f"wallet-{number}" for number in range(8)]
    for number in range(count):
        one, other = draw.sample(wallets, 2)
        amount = f"{draw.randint(1, 2_000_000) / 10_000:.4f}"
        key = f"random-{draw.getrandbits(64):x}-{number}"
        commands: list[Command] = [
            deposit(one, amount, key),
            withdraw(one, amount, key),
            transfer(one, other, amount, key),
        ]
        assert {command.kind for command in commands} == set(COMMANDS), "each kind of command is used"
        await send(ledger, draw.choice(commands))


async def test_each_wallet_is_the_fold_of_its_stored_events(database_url: str) -> None:
    """All types of events, transfers in one and in three database transactions; the seed is in the file."""
    await write_books(database_url)
    draw = random.Random(SEED)
    for is_stepwise in (False, True):
        async with running_ledger(database_url, is_stepwise=is_stepwise) as ledger:
            await move_at_random(ledger, draw, 150)
    events, rows = await fetch_rows(database_url, EVENTS), await fetch_rows(database_url, WALLETS)
    folded: dict[str, Wallet] = {}
    outside = in_flight = ZERO
    for row in events:
        payload = json.loads(row["payload"])
        event = decode_event(row["type"], payload | {"amount": Decimal(payload["amount"])})
        assert type_of(event) == row["type"]
        wallet = folded.get(row["wallet_id"]) or initial(WalletId(row["wallet_id"]))
        folded[row["wallet_id"]] = evolve(wallet, event, row["occurred_at"])
        assert folded[row["wallet_id"]].balance == row["balance_after"]
        outside = add(outside, times(event.amount, event.effect.outside))
        in_flight = add(in_flight, times(event.amount, event.effect.in_flight))
    assert {row["type"] for row in events} == set(EVENT_TYPES)
    assert folded == {row["wallet_id"]: Wallet(*row.values()) for row in rows}
    assert sum((wallet.balance for wallet in folded.values()), ZERO) + in_flight + outside == 0
    assert in_flight == 0
    assert await faults_of(database_url, effect_within=timedelta(days=1)) == {}
