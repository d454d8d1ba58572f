"""Free ports on the loopback interface, of those that no outgoing connection is given.

A server that is stopped must find its port free when it starts again. From the range that the kernel takes the near
ends of connections from it might not: a client that tries to reconnect meanwhile can be given that very port.
"""

import random
import socket
from contextlib import ExitStack

PORTS = range(15_000, 32_000)  # Linux gives connections ports from 32768 on, macOS from 49152 on.
ATTEMPTS_MAX = 1_000


def free_port() -> int:
    """A port free just now; the next process to bind it has it."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different free ports: all are held at once before any is given back."""
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
