"""Books that are written once and copied for each test that spoils them; what tests of a network need."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.marks import make_marks
from tests.support.postgres import PostgresServer, run_apart
from tests.support.waiting import eventually
from tests.support.written_books import write_books


@pytest.fixture(scope="session")
def written_books(postgres_server: PostgresServer) -> str:
    """The original: see written_books. Nobody may connect to it, or it can't be copied."""
    url = postgres_server.create_database()
    run_apart(write_books(url))
    return url


@pytest.fixture
def books_url(postgres_server: PostgresServer, written_books: str) -> Iterator[str]:
    """A copy of the books for one test."""
    url = postgres_server.copy_database(written_books)
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
