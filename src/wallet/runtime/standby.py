"""Logs why a process stands by: once for each holder of the lease that it waits for, not at every attempt."""

from datetime import datetime

from structlog.typing import FilteringBoundLogger


class Standby:
    """What one process has logged about the lease that it waits for."""

    def __init__(self, log: FilteringBoundLogger, event: str) -> None:
        self._log = log
        self._event = event
        self._holder: str | None = None

    def report(self, holder: str | None, lease_until: datetime) -> None:
        """Log who holds the lease and until when, unless that holder was the last one logged."""
        if holder is not None and holder != self._holder:
            self._log.info(self._event, reason="another process holds the lease", holder=holder, until=str(lease_until))
            self._holder = holder

    def reset(self) -> None:
        """This process has the lease: log the next holder, even if it is the same as before."""
        self._holder = None
