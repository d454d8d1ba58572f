"""The running server against its own OpenAPI document: thousands of requests, none of which it may be surprised by."""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.books import assert_books_are_right
from tests.support.database import connected
from tests.support.processes import Processes
from tests.support.waiting import eventually
from wallet.access.principal import Scope
from wallet.access.store import NewKey, create_key

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
CONTRACT = Path(__file__).parents[2] / "contracts" / "openapi.json"
ATTACKERS = 2
CASES_MIN = 2000
ATTACK_SECONDS_MAX = 170.0


@pytest.mark.timeout(240)  # Half a minute on a machine that does nothing else.
async def test_no_request_gets_an_answer_that_the_contract_does_not_know(
    processes: Processes, database_url: str, tmp_path: Path, seed: int
) -> None:
    key = await _new_key(database_url)
    api = processes.start_api(DATABASE_URL=database_url)
    # At once and on the same few wallets, so that they meet there.
    attacks = [Attack(api.url, tmp_path / f"attack-{number}", seed + number, key) for number in range(ATTACKERS)]
    try:
        await eventually(lambda: all(attack.is_over for attack in attacks), within=ATTACK_SECONDS_MAX, every=0.2)
    finally:
        for attack in attacks:
            attack.end()
    assert sum(attack.cases_passed() for attack in attacks) >= CASES_MIN
    assert api.exit_code is None
    await assert_books_are_right(database_url)


async def _new_key(database_url: str) -> str:
    async with connected(database_url) as connection:
        return (await create_key(connection, NewKey(name="attack", scopes=tuple(Scope)), actor="test")).text


class Attack:
    """One run of schemathesis, as a separate process."""

    def __init__(self, url: str, directory: Path, seed: int, key: str) -> None:
        directory.mkdir()
        self._report = directory / "report"
        command = [sys.executable, "-P", "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run"]
        options = ["--seed", str(seed), "--no-color", "--generation-database", "none"]
        options += ["--header", f"Authorization: Bearer {key}"]
        with self._report.open("wb") as report:
            self._process = subprocess.Popen(
                [*command, f"{url}/openapi.json", *options],
                env={"HOME": str(directory), "LANG": "C.UTF-8"},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=report,
                stderr=subprocess.STDOUT,
            )

    @property
    def is_over(self) -> bool:
        """Whether it has reported."""
        return self._process.poll() is not None

    def end(self) -> None:
        """Leave nothing running."""
        self._process.kill()
        self._process.wait()

    def cases_passed(self) -> int:
        """How many cases it tried, all of which must have passed."""
        report = self._report.read_text()
        assert self._process.returncode == 0, report
        counted = re.search(r"(\d+) generated, (\d+) passed", report)
        assert counted is not None, report
        assert counted[1] == counted[2], report
        return int(counted[1])


def test_the_document_served_is_the_contract(processes: Processes, database_url: str) -> None:
    api = processes.start_api(DATABASE_URL=database_url)
    served = httpx.get(f"{api.url}/openapi.json", trust_env=False)
    assert served.json() == json.loads(CONTRACT.read_bytes())
