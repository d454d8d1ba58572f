"""Free ports on the loopback interface."""

import socket


def free_port() -> int:
    """A port free just now; the next process to bind it has it."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different free ports: all held at once before any is given back."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
