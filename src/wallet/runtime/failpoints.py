"""Failpoints: named places where a test may kill, stop, fail or delay the process. WALLET_FAILPOINTS activates them.

The code calls, for example, `failpoint("ledger.after_lock")`. If none is active, this only checks an empty dict.
"""

import asyncio
import os
import re
import signal
from dataclasses import dataclass
from typing import Final

NAMES: Final = frozenset(
    {
        "ledger.before_begin",
        "ledger.after_lock",
        "ledger.before_commit",
        "ledger.after_commit",
        "relay.after_seal",
        "relay.after_publish",
        "relay.before_mark",
        "worker.before_commit",
        "worker.before_ack",
        "saga.after_debit",
        "saga.after_credit",
        "dlq.before_mark",
        "dlq.before_remove",
    }
)
_SPEC: Final = re.compile(
    r"(?P<name>[a-z_.]+)=(?P<mode>kill|stop|raise|delay:(?P<ms>\d{1,6}))(@(?P<nth>[1-9]\d{0,8}))?"
)


class InvalidFailpoints(ValueError):
    """WALLET_FAILPOINTS is not a comma-separated list of name=kill|stop|raise|delay:MS@N; the message states where."""


class FailpointRaised(Exception):
    """A failpoint in the mode `raise` was passed: a stand-in for a bug of ours."""


@dataclass(slots=True)
class _Failpoint:
    mode: str
    delay_ms: int
    nth: int | None
    passes: int = 0


_active: dict[str, _Failpoint] = {}


def configure_failpoints(spec: str) -> None:
    """Activate the failpoints of `name=mode[@N],…`, and deactivate all others. Raises InvalidFailpoints."""
    _active.clear()
    for part in filter(None, (piece.strip() for piece in spec.split(","))):
        match = _SPEC.fullmatch(part)
        if match is None or match["name"] not in NAMES:
            raise InvalidFailpoints(
                f"WALLET_FAILPOINTS: {part!r} is not name=kill|stop|raise|delay:MS[@N] "
                f"with a name of {', '.join(sorted(NAMES))}"
            )
        nth = int(match["nth"]) if match["nth"] else None
        _active[match["name"]] = _Failpoint(match["mode"].split(":")[0], int(match["ms"] or 0), nth)


async def failpoint(name: str) -> None:
    """Trigger the failpoint if it is active."""
    if not _active or name not in _active:
        return
    point = _active[name]
    point.passes += 1
    if point.nth is not None and point.passes != point.nth:
        return
    match point.mode:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "raise":
            raise FailpointRaised(name)
        case _:
            await asyncio.sleep(point.delay_ms / 1000)
