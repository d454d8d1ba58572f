"""The table of what an error from PostgreSQL means: every row of it."""

import asyncpg
import pytest

from wallet.postgres.errors import DATABASE_ERRORS, Cause, Failure, cause_of, failure_of, sentence_about


def error_with(sqlstate: str) -> BaseException:
    """The error that asyncpg makes of a server's message with this code."""
    error: BaseException = asyncpg.PostgresError.new({"C": sqlstate, "M": "planted", "S": "ERROR"})
    return error


@pytest.mark.parametrize(
    ("sqlstates", "failure"),
    [
        (["40001", "40P01"], Failure.RETRY),
        (["55P03"], Failure.LOCKED),
        (
            ["08000", "08006", "25P03", "25P04", "25006", "57P01", "57P02", "57P03", "53300", "58000", "58030"],
            Failure.RECONNECT,
        ),
        (["53000", "53100", "53200", "57014"], Failure.OVERLOADED),
        (["22003", "22P05", "23505", "23514", "42P01", "XX000", "P0001"], Failure.CULPRIT),
    ],
)
def test_each_sqlstate_has_one_meaning(sqlstates: list[str], failure: Failure) -> None:
    assert {failure_of(error_with(sqlstate)) for sqlstate in sqlstates} == {failure}


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        OSError("no route"),
        TimeoutError(),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
    ],
)
def test_a_lost_connection_is_opened_again(error: Exception) -> None:
    assert failure_of(error) is Failure.RECONNECT
    assert isinstance(error, DATABASE_ERRORS)


@pytest.mark.parametrize(
    "error", [asyncpg.DataError("invalid input for query argument"), AssertionError(), KeyError("x")]
)
def test_what_is_nobodys_outage_is_a_bug_of_ours(error: Exception) -> None:
    assert failure_of(error) is Failure.CULPRIT


@pytest.mark.parametrize(
    ("sqlstates", "cause"),
    [
        (["08006", "57P01", "57P03", "53300", "25006"], Cause.AWAY),
        (["40001", "55P03", "57014", "53100"], Cause.BUSY),
        (["28P01", "28000", "3D000", "42501"], Cause.REFUSED),
        (["XX001", "XX002", "58P01", "58030"], Cause.DAMAGED),
        (["42P01", "42703", "23505", "XX000"], Cause.FAILED),
    ],
)
def test_the_cause_is_reported_to_a_person(sqlstates: list[str], cause: Cause) -> None:
    for sqlstate in sqlstates:
        assert cause_of(error_with(sqlstate)) is cause
        assert sentence_about(error_with(sqlstate)) == f"{cause.value}: planted"


def test_an_error_without_a_code_has_a_cause_too() -> None:
    assert cause_of(ConnectionRefusedError()) is Cause.AWAY
    assert cause_of(asyncpg.ClientConfigurationError("invalid DSN")) is Cause.REFUSED
    assert sentence_about(TimeoutError()) == "The database can't be reached: TimeoutError"
