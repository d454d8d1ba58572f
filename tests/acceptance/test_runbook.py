"""The runbook keeps its word: its shell blocks are run, in order, on real systems."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from tests.support.checkout import ROOT, copy_checkout
from tests.support.client import deposit_once, total_deposited
from tests.support.postgres import PostgresServer
from tests.support.processes import Processes, WalletProcess
from tests.support.reaper import Reaper
from tests.support.standby import Standby
from tests.support.waiting import eventually_blocking
from wallet.postgres.unprivileged import Runner

COMMAND_SECONDS_MAX = 60.0
CLEAN = "clean: every promise holds"

BLOCK_COUNTS = {"Backup": 1, "Restore": 5, "Standby and failover": 3, "Upgrade": 1}
"""The sections that have commands, and how many blocks of them; the tests below run them all."""


def blocks() -> dict[str, list[str]]:
    """The shell blocks of each section."""
    sections = re.split(r"^## (.*)$", (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    pairs = zip(sections[1::2], sections[2::2], strict=True)
    return {title: re.findall(r"^```sh\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL) for title, text in pairs}


class Operator:
    """Runs blocks in a shell of a checkout, with different settings."""

    def __init__(self, checkout: Path, settings: Mapping[str, str]) -> None:
        self.checkout = checkout
        self._settings = dict(settings)

    def run(self, block: str, settings: Mapping[str, str] | None = None, *, exit_code: int = 0) -> str:
        """Run a block to its end, and return what it printed."""
        finished = subprocess.run(
            ["sh", "-euc", block],
            cwd=self.checkout,
            env={"PATH": os.environ["PATH"], "HOME": str(self.checkout), "LANG": "C.UTF-8"}
            | self._settings
            | dict(settings or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
        assert finished.returncode == exit_code, f"{block}\n{finished.stdout}{finished.stderr}"
        return finished.stdout


def deposit_was_replayed(process: WalletProcess, key: str) -> bool:
    """Deposits 5 to alice with this key. Returns whether the answer was a replay."""
    answer = deposit_once(process.url, key=key, timeout=20)
    return bool(answer.headers.get("Idempotency-Replayed") == "true")


def balance(process: WalletProcess) -> str:
    return str(httpx.get(f"{process.url}/wallet/alice", trust_env=False).json()["balance"])


def test_every_block_is_run_below() -> None:
    assert {title: len(texts) for title, texts in blocks().items() if texts} == BLOCK_COUNTS


@pytest.mark.timeout(200)
def test_a_backup_of_wallet_up_is_restored_beside_it_judged_and_switched_to(
    processes: Processes, tmp_path: Path
) -> None:
    checkout = copy_checkout(tmp_path / "wallet")
    heads, log_dir = tmp_path / "heads", checkout / "logs"
    files = {"BACKUP": str(tmp_path / "backup"), "HEADS": str(heads), "LOG_DIR": str(log_dir)}
    operator = Operator(checkout, files)
    [back_up], (restore, compare, list_missing, switch, verify) = blocks()["Backup"], blocks()["Restore"]

    def start_up(**settings: str) -> WalletProcess:
        return processes.start_up("--data", str(checkout / "data"), LOG_DIR=str(log_dir), **settings)

    assert not deposit_was_replayed(up := start_up(), "kept")
    assert up.stop() == 0, "the relay exports the head"
    up = start_up()
    operator.run(back_up)
    assert not deposit_was_replayed(up, "lost")
    eventually_blocking(lambda: total_deposited(up.url) == "10.0000")
    assert up.stop() == 0
    heads.write_text((log_dir / "journal-heads.log").read_text())
    up = start_up()

    restored = {"DB_NAME": "wallet_restored"}
    assert CLEAN in operator.run(restore, restored)
    said = operator.run(compare, restored, exit_code=1)
    found = re.search(r"the journal ends at (\d+), its tail was cut off", said)
    assert found is not None, said
    position = {"POSITION": found[1]}
    assert re.search(r"alice +\| +3 \| FundsDeposited +\| 5.0000 \| lost", operator.run(list_missing, position))

    assert up.stop() == 0
    operator.run(switch, position)
    up = start_up(**restored)
    assert (balance(up), total_deposited(up.url)) == ("5.0000", "5.0000")
    assert (deposit_was_replayed(up, "kept"), deposit_was_replayed(up, "lost")) == (True, False)
    assert balance(up) == "10.0000"
    eventually_blocking(lambda: total_deposited(up.url) == "10.0000")
    assert CLEAN in operator.run(verify, restored)
    assert "history was rewritten" in operator.run(compare, restored, exit_code=1)


@pytest.mark.timeout(200)
def test_a_standby_is_made_waited_for_and_promoted_and_nothing_is_lost(
    own_postgres_server: PostgresServer, reaper: Reaper, processes: Processes, tmp_path: Path
) -> None:
    url = own_postgres_server.create_database(migrated=False)
    database = url.rpartition("/")[2]
    at_primary = {"DATABASE_URL": url}
    standby = Standby(reaper, own_postgres_server)
    heads = tmp_path / "heads"
    copy = standby.directory / "pgdata"
    operator = Operator(copy_checkout(tmp_path / "wallet"), {"STANDBY_DIRECTORY": str(copy), "HEADS": str(heads)})
    make, wait_for, fail_over = blocks()["Standby and failover"]
    [migrate] = blocks()["Upgrade"]
    assert "applied 0001_ledger" in operator.run(migrate, at_primary)
    assert "nothing to apply" in operator.run(migrate, at_primary)

    operator.run(make, at_primary)
    for path in (copy, *copy.rglob("*")):
        Runner().own(path)
    # As it would be if it had been made while the primary waited for another of this name.
    with (copy / "postgresql.auto.conf").open("a") as inherited:
        inherited.write("synchronous_standby_names = 'standby'\n")
    with standby:
        eventually_blocking(lambda: "streaming | sync" in operator.run(wait_for, at_primary))
        login, _, place = url.partition("@")
        other = standby.url(database).partition("@")[2]
        both = {"DATABASE_URL": f"{login}@{place.partition('/')[0]},{other}"}
        api, relay = processes.start_api(**both), processes.start_relay(**both)
        processes.start_worker(**both)
        assert not deposit_was_replayed(api, "kept")
        eventually_blocking(lambda: total_deposited(api.url) == "5.0000")
        assert relay.stop() == 0
        heads.write_text((relay.directory / "logs" / "journal-heads.log").read_text())
        own_postgres_server.kill()
        assert CLEAN in operator.run(fail_over, {"STANDBY_URL": standby.url(database)})
        assert deposit_was_replayed(api, "kept")
        assert not deposit_was_replayed(api, "another")
        assert balance(api) == "10.0000"
