"""Sends a load over HTTP with wrk; every operation has a new key. A single failed request invalidates the run."""

import json
import re
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.scenarios import Pressure
from benchmarks.verdicts import InvalidRun

SCRIPTS: Final = Path(__file__).parent / "lua"
ANSWER_SECONDS_MAX: Final = 15
GRACE_SECONDS: Final = 30
_FIGURES: Final = re.compile(r"^figures (\{.*\})$", re.MULTILINE)
_ERRORS: Final = ("connect", "read", "write", "timeout", "status", "refused")


@dataclass(frozen=True, slots=True)
class Pressed:
    """The result of one run."""

    per_second: float
    p50_ms: float
    p99_ms: float
    raw: dict[str, Any]


def press(url: str, pressure: Pressure, seconds: int) -> Pressed:
    """Sends operations for the given time. Raises InvalidRun."""
    count = pressure.operations_per_request
    arguments = [f"kind={pressure.kind}", f"wallets={pressure.wallet_count}", f"operations={count}"]
    return _run("operations", url, arguments, connections=pressure.connections, seconds=seconds, per_request=count)


def read_histories(url: str, *, prefix: str, wallet_count: int, page_size: int, seconds: int) -> Pressed:
    """Reads first history pages over one connection; each page must be full. Raises InvalidRun."""
    arguments = [f"prefix={prefix}", f"wallets={wallet_count}", f"page={page_size}"]
    return _run("history", url, arguments, connections=1, seconds=seconds, per_request=1)


def _run(script: str, url: str, arguments: list[str], *, connections: int, seconds: int, per_request: int) -> Pressed:
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", f"{ANSWER_SECONDS_MAX}s"]
    finished = subprocess.run(
        ["wrk", *options, "-s", SCRIPTS / f"{script}.lua", url, "--", f"run={secrets.token_hex(4)}", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + ANSWER_SECONDS_MAX + GRACE_SECONDS,
    )
    found = _FIGURES.search(finished.stdout)
    if finished.returncode != 0 or found is None:
        raise InvalidRun(f"wrk failed: {finished.stdout}{finished.stderr}")
    return pressed(json.loads(found[1]), per_request=per_request)


def pressed(raw: dict[str, Any], *, per_request: int) -> Pressed:
    """Returns the figures of a run. Raises InvalidRun if a request failed."""
    errors = {name: raw[name] for name in _ERRORS if raw[name]}
    if errors or not raw["requests"]:
        words = ", ".join(f"{name} {count:,}" for name, count in errors.items()) or "no answer received"
        raise InvalidRun(f"some of {raw['requests']:,} requests failed: {words}")
    return Pressed(raw["requests"] * per_request / raw["seconds"], raw["p50_ms"], raw["p99_ms"], raw)
