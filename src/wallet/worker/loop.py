"""The loop around a transport: a failure ends a turn, never the process.

A dependency that is away is waited for, with pauses that grow. So is a bug of ours that is no message's fault:
nothing is lost by waiting, while a message made a dead letter for it would be.
"""

import asyncio
from contextlib import suppress
from typing import Final, Protocol

import structlog

from wallet.postgres.errors import DATABASE_ERRORS
from wallet.postgres.lease import LeaseLost
from wallet.postgres.session import NotMigrated, Session
from wallet.rabbitmq.connection import InvalidBrokerAddress
from wallet.runtime.loop import Backoff, unless_stopped

APPLICATION: Final = "wallet worker"
RETRY_SECONDS_MIN: Final = 0.1
RETRY_SECONDS_MAX: Final = 5.0

_DEPENDENCY_ERRORS: Final = (*DATABASE_ERRORS, NotMigrated, LeaseLost)

_log = structlog.get_logger()


class Transport(Protocol):
    """What brings messages to the handlers."""

    async def take_turn(self) -> None:
        """Wait for messages and handle them."""

    async def stand_down(self) -> None:
        """A turn failed: hold no message until the next one."""


async def run_loop(transport: Transport, session: Session, stop: asyncio.Event) -> None:
    """Take turns until asked to stop.

    Raises nothing but InvalidBrokerAddress, which no waiting cures.
    """
    pace = Backoff(seconds_min=RETRY_SECONDS_MIN, seconds_max=RETRY_SECONDS_MAX)
    while not stop.is_set():
        try:
            await transport.take_turn()
            pace.reset()
        except InvalidBrokerAddress:
            raise
        except Exception as error:  # noqa: BLE001 - A loop of the process: it logs, and goes on with the next turn.
            reason = f"{type(error).__name__}: {error}"
            _log.warning("worker_paused", reason=reason, exc_info=not isinstance(error, _DEPENDENCY_ERRORS))
            session.drop()
            # A broker that does not even answer the goodbye is no reason to end.
            with suppress(TimeoutError):
                await transport.stand_down()
            await unless_stopped(pace.wait(), stop)
