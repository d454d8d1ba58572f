"""4: the api that drives a stepwise transfer dies between any two steps; two apis recover it; a receiver is locked."""

import asyncio
import contextlib
from functools import partial

import aiohttp

from tests.fault.laboratory import Laboratory
from tests.support.client import Client, open_client
from tests.support.database import connected, fetch_value
from tests.support.processes import WalletProcess
from tests.support.waiting import eventually

STEPS = ("saga.after_debit", "saga.after_credit", "ledger.after_commit", "ledger.before_commit")
STEPS_MAX = 20
ORPHANS = 60
RECOVERY_SECONDS_MAX = 30.0
SENT_BACK = """
select count(*) from transfers where from_wallet_id = 'orphans' and request_id like $1 and status <> 'completed'
"""
UNFINISHED = "select count(*) from transfers where status = 'debited'"
LOCKED = "orphan-0"
LOCK = "select from wallets where wallet_id = $1 for update"
UNFINISHED_ELSEWHERE = f"{UNFINISHED} and to_wallet_id <> $1"


async def kill_the_driver_between_steps(lab: Laboratory) -> None:
    """Kill an api at each step under load; then two apis complete transfers whose clients do not retry."""
    lab.settings["TRANSFER_MODE"] = "stepwise"
    await lab.start_relay()
    await lab.start_worker()
    await lab.start_api()
    api = await lab.start_api(WALLET_FAILPOINTS=lab.fail_at(STEPS[0], "kill", once_in=STEPS_MAX))
    async with lab.load(wallet_count=8) as history:
        for step in STEPS[1:]:
            await lab.ended(api)
            api = await lab.start_again(api, WALLET_FAILPOINTS=lab.fail_at(step, "kill", once_in=STEPS_MAX))
        await lab.ended(api)
        await history.more_answers(50)
    for step in STEPS[:2]:
        await lab.kill(api)
        api = await _lose_drivers(lab, api, step)
    await lab.kill(api)
    await _recover_beside_a_locked_receiver(lab, api)


async def _lose_drivers(lab: Laboratory, api: WalletProcess, step: str) -> WalletProcess:
    """Kill the api at a step before or after the credit: the recovering apis can't know which, and complete all."""
    dying = await _die_at(lab, api, step, name=step.replace(".", "-"))
    api = await lab.start_again(dying)
    await eventually(partial(_all_ended, lab), within=RECOVERY_SECONDS_MAX)
    sent_back = await fetch_value(lab.database_url, SENT_BACK, f"{step.replace('.', '-')}-%")
    assert sent_back == 0, f"{sent_back} transfers, none of which could be refused, did not arrive"
    return api


async def _recover_beside_a_locked_receiver(lab: Laboratory, api: WalletProcess) -> None:
    """Lock the row of one receiver in another session: only transfers to this receiver wait."""
    dying = await _die_at(lab, api, STEPS[0], name="locked")

    async def only_locked_are_left() -> bool:
        return bool(await fetch_value(lab.database_url, UNFINISHED_ELSEWHERE, LOCKED) == 0)

    async with connected(lab.database_url) as outside, outside.transaction():
        await outside.execute(LOCK, LOCKED)
        await lab.start_again(dying)
        await eventually(only_locked_are_left, within=RECOVERY_SECONDS_MAX)
        left = await fetch_value(lab.database_url, UNFINISHED)
        lab.note(f"{left} transfers waited for a locked receiver, and all others ended")
        assert left, "no transfer waited for the locked receiver"
    await eventually(partial(_all_ended, lab), within=RECOVERY_SECONDS_MAX)


async def _die_at(lab: Laboratory, api: WalletProcess, step: str, *, name: str) -> WalletProcess:
    dying = await lab.start_api(PORT=str(api.port), WALLET_FAILPOINTS=f"{step}=kill@{ORPHANS // 2}")
    await _orphan_transfers(dying, name)
    await lab.ended(dying)
    left = await fetch_value(lab.database_url, UNFINISHED)
    lab.note(f"{left} transfers lost their driver and their client: {step}")
    assert left, "the driver died without leaving a transfer behind"
    return dying


async def _all_ended(lab: Laboratory) -> bool:
    return bool(await fetch_value(lab.database_url, UNFINISHED) == 0)


async def _orphan_transfers(api: WalletProcess, name: str) -> None:
    async with open_client(api.url) as client:
        await client.post("/wallet/orphans/deposit", {"amount": ORPHANS, "requestId": name})
        await asyncio.gather(*(_ask_once(client, api, f"{name}-{number}") for number in range(ORPHANS)))


async def _ask_once(client: Client, api: WalletProcess, key: str) -> None:
    body = {"amount": 1, "toWalletId": f"orphan-{key[-1]}", "requestId": key}
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        await client.post_once("/wallet/orphans/transfer", body, url=api.url)
