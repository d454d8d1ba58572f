"""`wallet monkey` as a process, against a service in memory that is right, or wrong in a known way."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.ports import free_port
from tests.support.processes import Processes, WalletProcess
from tests.support.stub_service import serve_stub
from tests.support.stub_wallets import Mode
from tests.support.waiting import eventually

# What a clean report says of it.
NOTHING_LOST = {
    Mode.HONEST: "replays, byte for byte",
    Mode.REFERENCE_DIALECT: "replays, byte for byte",
    Mode.UNSURE: "none (connection closed without an answer): ",
    Mode.LATE_WORKER: "worker     caught up in ",
    Mode.RESPELLS_REPLAYS: "with different bytes but equal JSON",
}
BROKEN = {
    Mode.LOSES_UPDATES: ["balances never jump", "every balance is exact", "money is conserved"],
    Mode.LOSES_TRANSFERS: ["every key had one effect", "every balance is exact", "money is conserved"],
    Mode.APPLIES_TWICE: ["every key had one effect", "every balance is exact", "money is conserved"],
    Mode.REPLAYS_OTHERWISE: ["replays are identical"],
    Mode.OVERDRAWS: ["no balance was negative"],
    Mode.REFUSES_AND_TAKES: ["every key had one effect", "every balance is exact", "money is conserved"],
    Mode.MISCOUNTS: ["the worker's totals agree"],
    Mode.FORGETS_EVENTS: ["every key had one effect", "balances never jump"],
    Mode.FAILS: ["every request was answered", "no server errors"],
    Mode.DIES: ["every request was answered", "every wallet can be read"],
}
# Few wallets, so that a history has several pages; many wallets would hide no fault.
OPTIONS = ("--requests", "600", "--wallets", "4")
# Where totals stay wrong or a service stays dead, that is sooner known with less patience; it is never due to luck.
LITTLE_PATIENCE = ("--patience", "1")


@asynccontextmanager
async def a_run(processes: Processes, mode: Mode, seed: int, *options: str) -> AsyncIterator[WalletProcess]:
    async with serve_stub(mode) as url:
        yield processes.start("monkey", "--url", url, "--seed", str(seed), *OPTIONS, *options, settings={})


async def end_of(monkey: WalletProcess) -> int:
    return await asyncio.to_thread(monkey.wait)


def broken_promises(output: str) -> list[str]:
    return re.findall(r"✗ (.+?) {2,}", output)


def test_every_way_to_be_wrong_is_tried() -> None:
    assert {*NOTHING_LOST, *BROKEN} == set(Mode)


@pytest.mark.parametrize("mode", NOTHING_LOST, ids=lambda mode: mode.name.lower())
async def test_a_service_that_loses_nothing_is_clean(processes: Processes, seed: int, mode: Mode) -> None:
    async with a_run(processes, mode, seed) as monkey:
        assert await end_of(monkey) == 0, monkey.output()
    assert "clean: every promise was kept" in monkey.output()
    assert NOTHING_LOST[mode] in monkey.output()
    assert f"--seed {seed}" in monkey.output()


@pytest.mark.parametrize("mode", BROKEN, ids=lambda mode: mode.name.lower())
async def test_a_broken_service_is_found_out(processes: Processes, seed: int, mode: Mode) -> None:
    async with a_run(processes, mode, seed, *LITTLE_PATIENCE) as monkey:
        assert await end_of(monkey) == 1, monkey.output()
    output = monkey.output()
    assert "NOT clean" in output
    assert set(BROKEN[mode]) <= set(broken_promises(output)), output
    # Each broken promise names a wallet or a key of the run, or the sum that is off, right below.
    for promise in BROKEN[mode]:
        assert re.search(rf"✗ {promise} .*\n +.*(monkey-[0-9a-f]{{8}}-|[0-9.,]+ (vanished|appeared))", output), output


async def test_ctrl_c_ends_the_sending_and_what_was_sent_is_checked(processes: Processes, seed: int) -> None:
    async with a_run(processes, Mode.HONEST, seed, "--requests", "1000000") as monkey:
        await eventually(lambda: "sent " in monkey.output(), within=30)
        monkey.send_signal(signal.SIGINT)
        assert await end_of(monkey) == 0, monkey.output()
    assert "Ended early" in monkey.output()
    assert "clean: every promise was kept" in monkey.output()


def test_a_service_that_cannot_be_reached_is_one_line_and_exit_code_3(processes: Processes) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkey = processes.start("monkey", "--url", url, settings={})
    assert monkey.wait() == 3
    assert monkey.output() == (
        f"wallet: {url} can't be reached: connection refused. "
        "Start it (here: ./wallet up), or name another with --url.\n"
    )


def test_an_address_that_is_none_is_refused(processes: Processes) -> None:
    monkey = processes.start("monkey", "--url", "localhost:3000", settings={})
    assert monkey.wait() == 2
    assert "must begin with http://" in monkey.output()
