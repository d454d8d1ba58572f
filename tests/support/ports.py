"""Free ports on the loopback interface, outside the range that the kernel uses for outgoing connections.

A server that was stopped must find its port free when it starts again. A port of the kernel's range might be taken:
a client that tries to reconnect meanwhile can get exactly that port as its own.
"""

import random
import socket
from contextlib import ExitStack

PORTS = range(15_000, 32_000)  # Linux gives connections ports from 32768 on, macOS from 49152 on.
ATTEMPTS_MAX = 1_000


def free_port() -> int:
    """Returns a port that is free at this moment; it is not reserved."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Returns different free ports: all are bound at the same time before any is released."""
    with ExitStack() as held:
        return [_hold_free_port(held) for _ in range(count)]


def _hold_free_port(held: ExitStack) -> int:
    for _ in range(ATTEMPTS_MAX):
        port = random.SystemRandom().choice(PORTS)
        probe = held.enter_context(socket.socket())
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return port
    raise RuntimeError(f"no free port among {PORTS}")
