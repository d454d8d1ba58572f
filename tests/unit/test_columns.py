"""Rows become parameters: one array for each field, spelled by the field's type."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import NewType
from uuid import UUID

import msgspec

from wallet.postgres.statements import Columns

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
