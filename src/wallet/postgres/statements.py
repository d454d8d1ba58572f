"""Helpers for the SQL statements of all packages: loading their texts, new ids, and arrays as parameters.

SQL is in .sql files, in blocks that begin with `-- name: …`; each block becomes an attribute.

Arrays of numbers and short texts are passed as text in PostgreSQL's array syntax, for parameters of the form
`$1::text::bigint[]`. The driver encodes a list element by element, a third of a microsecond each, and a deposit has
sixty elements. It is cheaper to join them here and let the server parse the text. Ids (UUID), times, JSON and bytes are
passed as lists, because parsing their text would cost the server more than it saves (docs/performance.md).
"""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from importlib.resources import files
from operator import attrgetter
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Final, Generic, TypeVar, Union, cast, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec
import uuid_utils
from asyncpg.pgproto import pgproto

_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)\s*$", re.MULTILINE)
Row = TypeVar("Row", bound=msgspec.Struct)
_SEPARATOR: Final = "\x01"
"""A character that is very rare in texts. If one contains it, the texts are encoded one by one."""
Spelling = Callable[[list[Any]], object]
"""Returns the parameter for the values of a column."""


def load_statements(package: str, filename: str, **inserted: str) -> SimpleNamespace:
    """Read one file of named statements: `statements.lock_wallets` is the text under `-- name: lock_wallets`.

    A comment such as `/* wallet_columns */` is replaced by the text given as `wallet_columns`.
    Raises ValueError for a repeated name or a file without names. A missing name raises AttributeError at its first
    use, which is at import in modules that assign statements to constants.
    """
    text = files(package).joinpath(filename).read_text(encoding="utf-8")
    for name, inserted_text in inserted.items():
        text = text.replace(f"/* {name} */", inserted_text)
    parts = _NAME.split(text)[1:]
    names, bodies = parts[::2], parts[1::2]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{package}/{filename} has no named statement, or one name twice: {names}")
    return SimpleNamespace(**{name: body.strip() for name, body in zip(names, bodies, strict=True)})


def uuid7() -> UUID:
    """Returns a new UUIDv7 of the driver's type, which equals the standard UUID with the same value.

    It costs a third of the standard type, and converting it to text is ten times as fast.
    """
    return pgproto.UUID(uuid_utils.uuid7().bytes)


def array_of(values: Sequence[object]) -> str:
    """Returns the text of an array of numbers or booleans; None becomes null."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def array_of_texts(values: Sequence[str]) -> str:
    """Returns the text of an array of texts."""
    if not values:
        return "{}"
    joined = _SEPARATOR.join(values)
    if joined.count(_SEPARATOR) != len(values) - 1:
        return "{" + ",".join(map(_quoted, values)) + "}"
    return '{"' + _escaped(joined).replace(_SEPARATOR, '","') + '"}'


def array_of_texts_or_nulls(values: Sequence[str | None]) -> str:
    """Returns the text of an array of texts; None becomes null."""
    return "{" + ",".join(["NULL" if value is None else _quoted(value) for value in values]) + "}"


def _quoted(value: str) -> str:
    return f'"{_escaped(value)}"'


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


class Columns(Generic[Row]):
    """Turns rows of one type into parameters: an array for each field, in the order of the type's fields.

    The type of a field decides how its values are encoded; `spelled` overrides this by name. `names` selects fields.
    """

    def __init__(self, row_type: type[Row], *names: str, **spelled: Spelling) -> None:
        hints = get_type_hints(row_type)
        self._columns = [
            (attrgetter(name), spelled.get(name) or _spelling_of(hints[name]))
            for name in names or row_type.__struct_fields__
        ]

    def arrays(self, rows: Sequence[Row]) -> list[object]:
        """Returns one parameter for each column."""
        return [spell(list(map(value_of, rows))) for value_of, spell in self._columns]


def _spelling_of(hint: Any) -> Spelling:
    """Returns the encoder for a field of this type, as the module docstring explains."""
    is_union = get_origin(hint) in (Union, UnionType)
    members = [_plain(member) for member in (get_args(hint) if is_union else (hint,))]
    is_nullable = NoneType in members
    (plain,) = (member for member in members if member is not NoneType)
    if issubclass(plain, str):
        return array_of_texts_or_nulls if is_nullable else array_of_texts
    return array_of if issubclass(plain, int | Decimal) else list


def _plain(hint: Any) -> type:
    """Returns the type behind a NewType."""
    while hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    return cast("type", hint)
