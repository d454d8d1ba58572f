"""Rows become parameters: one array for each field, spelled by the field's type."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import NewType
from uuid import UUID

import msgspec
import pytest

from wallet.domain.wallet import Wallet
from wallet.ledger import statements
from wallet.ledger.statements import CreditRow, OperationRow, TransferRow
from wallet.postgres.statements import Columns, load_statements
from wallet.trail import records
from wallet.trail.records import TrailRecord
from wallet.wire.digest import DigestedEvent
from wallet.worker.effects import AlertRow, StatsRow

WORKER_SQL = load_statements("wallet.worker", "worker.sql")
RowId = NewType("RowId", UUID)
Name = NewType("Name", str)


class Colour(StrEnum):
    RED = "red"


class Row(msgspec.Struct):
    number: int
    is_set: bool | None
    amount: Decimal
    name: Name
    other_name: Name | None
    colour: Colour
    row_id: RowId
    parent_id: RowId | None
    time: datetime | None
    body: bytes


FIRST = Row(1, True, Decimal("1.5000"), Name("a"), None, Colour.RED, RowId(UUID(int=1)), None, None, b"\0")
TIME = datetime(2026, 1, 31, tzinfo=UTC)
SECOND = Row(2, None, Decimal(0), Name('"'), Name("b"), Colour.RED, RowId(UUID(int=2)), RowId(UUID(int=1)), TIME, b"x")


def test_each_field_is_an_array_spelled_by_its_type() -> None:
    assert Columns(Row).arrays([FIRST, SECOND]) == [
        "{1,2}",
        "{True,NULL}",
        "{1.5000,0}",
        '{"a","\\""}',
        f'{{NULL,"{SECOND.other_name}"}}',
        f'{{"{FIRST.colour}","red"}}',
        [FIRST.row_id, SECOND.row_id],
        [None, SECOND.parent_id],
        [None, TIME],
        [b"\0", b"x"],
    ]


def test_fields_can_be_chosen_and_spelled_otherwise() -> None:
    assert Columns(Row, "name", "number", name=list).arrays([SECOND]) == [['"'], "{2}"]


def test_no_rows_are_empty_arrays() -> None:
    assert Columns(Row, "number", "name", "row_id").arrays([]) == ["{}", "{}", []]


@pytest.mark.parametrize(
    ("statement", "fields"),
    [
        (statements.SQL.insert_events, DigestedEvent.__struct_fields__),
        (statements.SQL.insert_operations, OperationRow.__struct_fields__),
        (statements.SQL.complete_operations, statements.COMPLETED_OPERATION),
        (statements.SQL.insert_transfers, TransferRow.__struct_fields__),
        (statements.SQL.end_transfers, statements.ENDED_TRANSFER),
        (statements.SQL.insert_credits, CreditRow.__struct_fields__),
        (statements.SQL.update_wallets, Wallet.__struct_fields__),
        (WORKER_SQL.add_totals, StatsRow.__struct_fields__),
        (WORKER_SQL.insert_alerts, AlertRow.__struct_fields__),
        (records.SQL.insert_trail_rows, TrailRecord.__struct_fields__),
    ],
)
def test_a_statement_names_its_parameters_in_the_order_of_the_fields(statement: str, fields: tuple[str, ...]) -> None:
    """Two columns of one type in the wrong order would be stored without an error."""
    named = re.search(r"as k \(([^)]*)\)", statement)
    assert named is not None
    columns = [name.strip() for name in named[1].split(",")]
    assert columns[: len(fields)] == [name.removesuffix("_json") for name in fields]
    parameters = re.findall(r"\$(\d+)::", statement)
    assert parameters[: len(fields)] == [str(number) for number in range(1, len(fields) + 1)]
