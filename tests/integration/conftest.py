"""Books that are written once and copied for each test that spoils them; what tests of a network need."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.marks import make_marks
from tests.support.postgres import PostgresServer, run_apart
from tests.support.waiting import eventually
from tests.support.written_books import write_books

FRESH_SECONDS_MAX = 120.0
"""After five minutes `wallet verify` warns of what waits in them."""


class WrittenBooks:
    """The original: see written_books. Nobody may connect to it, or it can't be copied."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._url: str | None = None
        self._fresh_until_seconds = 0.0

    def copy(self) -> str:
        """A database with books that are new: what waits in them has not waited for long."""
        if self._url is None or time.monotonic() > self._fresh_until_seconds:
            self._url = self._server.create_database()
            run_apart(write_books(self._url))
            self._fresh_until_seconds = time.monotonic() + FRESH_SECONDS_MAX
        return self._server.copy_database(self._url)


@pytest.fixture(scope="session")
def written_books(postgres_server: PostgresServer) -> WrittenBooks:
    """Written when the first test asks for a copy."""
    return WrittenBooks(postgres_server)


@pytest.fixture
def books_url(postgres_server: PostgresServer, written_books: WrittenBooks) -> Iterator[str]:
    """A copy of the books for one test."""
    url = written_books.copy()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
async def marks_url(empty_database_url: str) -> str:
    """A database with the table of tests.support.marks."""
    await make_marks(empty_database_url)
    return empty_database_url


@pytest.fixture
async def no_task_afterwards() -> AsyncIterator[None]:
    """Fails a test that leaves a task behind."""
    before = asyncio.all_tasks()
    yield
    # What asyncpg starts for a connection that is lost ends in a turn or two of the loop.
    await eventually(lambda: asyncio.all_tasks() - before <= {asyncio.current_task()})
