"""Books that are written once and copied for each test that spoils them."""

from collections.abc import Iterator

import pytest

from tests.support.postgres import PostgresServer, run_apart
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
