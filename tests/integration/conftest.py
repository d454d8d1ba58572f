"""Fixtures for books that are written once and copied for each test that changes them, and for tests of connections."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.marks import make_marks
from tests.support.postgres import PostgresServer, run_apart
from tests.support.waiting import eventually
from tests.support.written_books import write_books

FRESH_SECONDS_MAX = 120.0
"""The greatest age of the books that are copied: after five minutes `wallet verify` warns of their waiting events."""


class WrittenBooks:
    """The original of the books, see tests.support.written_books. It can be copied only while no session uses it."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._url: str | None = None
        self._fresh_until_seconds = 0.0

    def copy(self) -> str:
        """Copies the books, and writes them again if they are too old. Returns the address of the copy."""
        if self._url is None or time.monotonic() > self._fresh_until_seconds:
            self._url = self._server.create_database()
            run_apart(write_books(self._url))
            self._fresh_until_seconds = time.monotonic() + FRESH_SECONDS_MAX
        return self._server.copy_database(self._url)


@pytest.fixture(scope="session")
def written_books(postgres_server: PostgresServer) -> WrittenBooks:
    """Returns the original of the books, which is written when it is first copied."""
    return WrittenBooks(postgres_server)


@pytest.fixture
def books_url(postgres_server: PostgresServer, written_books: WrittenBooks) -> Iterator[str]:
    """Yields the address of a copy of the books for one test."""
    url = written_books.copy()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
async def marks_url(empty_database_url: str) -> str:
    """Returns the address of a database with the table of tests.support.marks."""
    await make_marks(empty_database_url)
    return empty_database_url


@pytest.fixture
async def no_task_afterwards() -> AsyncIterator[None]:
    """Fails a test after which a task still runs."""
    before = asyncio.all_tasks()
    yield
    # The tasks that asyncpg starts for a lost connection end within a few iterations of the loop.
    await eventually(lambda: asyncio.all_tasks() - before <= {asyncio.current_task()})
