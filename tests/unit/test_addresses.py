"""The database's address: which ones the settings accept, and what PostgreSQL's programs get of it."""

import pika
import pytest
from pydantic import SecretStr, ValidationError

from wallet.postgres.programs import environment_of, find_program
from wallet.runtime.settings import Settings

LOGIN = {"PGUSER": "wallet", "PGPASSWORD": "p,a:s@s/"}
WRITES = {"PGTARGETSESSIONATTRS": "read-write"}


@pytest.mark.parametrize(
    ("address", "variables"),
    [
        (
            "postgresql://wallet:p%2Ca%3As%40s%2F@db:5433/books",
            LOGIN | {"PGHOST": "db", "PGPORT": "5433", "PGDATABASE": "books"},
        ),
        (
            "postgresql://wallet:p%2Ca%3As%40s%2F@a:1,b:2/books",
            LOGIN | WRITES | {"PGHOST": "a,b", "PGPORT": "1,2", "PGDATABASE": "books"},
        ),
        ("postgresql://db/books%20kept", {"PGHOST": "db", "PGDATABASE": "books kept"}),
        ("postgresql://[::1]:5432/books", {"PGHOST": "::1", "PGPORT": "5432", "PGDATABASE": "books"}),
        (
            "postgresql:///books?host=/run/postgresql&sslmode=require",
            {"PGHOST": "/run/postgresql", "PGDATABASE": "books", "PGSSLMODE": "require"},
        ),
    ],
)
def test_programs_get_the_address_in_their_variables(address: str, variables: dict[str, str]) -> None:
    assert environment_of(address) == variables


def test_postgresqls_programs_come_with_the_wallet() -> None:
    assert [find_program(name) is not None for name in ("psql", "pg_dump", "pg_restore", "createdb")] == [True] * 4
    assert find_program("nonesuch") is None


@pytest.mark.parametrize("hosts", ["db", "db:5432", "a:5432,b:5432", "a,b:5433", "[::1]:5432"])
def test_one_address_may_name_several_hosts(hosts: str) -> None:
    address = f"postgresql://wallet:p%2Cw@{hosts}/wallet"
    assert Settings(database_url=SecretStr(address)).dsn == address


@pytest.mark.parametrize("hosts", ["db:port", "a:5432,b:port", "a:5432,b:70000"])
def test_a_port_that_is_none_is_refused_without_quoting_the_password(hosts: str) -> None:
    with pytest.raises(ValidationError, match="DATABASE_URL can't be read") as error:
        Settings(database_url=SecretStr(f"postgresql://wallet:secret@{hosts}/wallet"))
    assert "secret" not in str(error.value.errors()[0]["msg"])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://broker:5672/books", "amqp://app:p%40s%2F@broker:5672/books"),
        ("amqps://broker/%2Fbooks", "amqps://app:p%40s%2F@broker/%2Fbooks"),
        ("amqp://other@broker", "amqp://other:p%40s%2F@broker"),
        ("amqp://other:own%40@broker:5672", "amqp://other:own%40@broker:5672"),
        ("amqp://other:own@[::1]:5672", "amqp://other:own@[::1]:5672"),
    ],
)
def test_the_brokers_address_gets_the_account_that_it_does_not_name(url: str, expected: str) -> None:
    settings = Settings(rabbitmq_url=SecretStr(url), rabbitmq_user="app", rabbitmq_password=SecretStr("p@s/"))
    assert settings.amqp_url == expected
    parameters = pika.URLParameters(settings.amqp_url)
    assert isinstance(parameters.credentials, pika.PlainCredentials)
    assert parameters.credentials.password in {"p@s/", "own@", "own"}


def test_an_account_without_an_address_names_no_broker() -> None:
    assert Settings(rabbitmq_user="app", rabbitmq_password=SecretStr("secret")).amqp_url is None
