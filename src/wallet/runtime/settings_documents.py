"""The documents that list the settings, written from their declarations: `.env.example` and a table of the README."""

from collections.abc import Iterator
from itertools import groupby
from textwrap import wrap
from typing import Any, Final

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from wallet.runtime.settings import Settings

BEGIN: Final = "<!-- The table is written by `./wallet contracts` from src/wallet/runtime/settings.py. -->\n"
END: Final = "<!-- The end of the table. -->\n"
LINE_LENGTH: Final = 118


def env_example() -> str:
    """Returns the text of `.env.example`: each setting, switched off, with its default or an example."""
    lines = [
        "# Every setting with its default, or with an example where it has none. Copy to .env and change what you need."
    ]
    for group, fields in _groups():
        lines += ["", f"## {group}"]
        for name, field in fields:
            lines += [f"# {line}" for line in wrap(field.description or "", LINE_LENGTH)]
            lines.append(f"#{name.upper()}={_default_of(field) or ''.join(field.examples or ())}")
    return "\n".join(lines) + "\n"


def with_settings_table(document: str) -> str:
    """Returns the document with the table of the settings between its two marks. Raises ValueError without them."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The document has no place for the table of the settings: {BEGIN.strip()} … {END.strip()}")
    rows = [
        f"| `{name.upper()}` | {f'`{default}`' if (default := _default_of(field)) else ''} | {field.description} |"
        for _, fields in _groups()
        for name, field in fields
    ]
    return "".join(
        (before, begin, "\n", "\n".join(("| setting | default | |", "|---|---|---|", *rows)), "\n\n", end, after)
    )


def _groups() -> Iterator[tuple[str, list[tuple[str, FieldInfo]]]]:
    for group, fields in groupby(Settings.model_fields.items(), key=lambda each: _group_of(each[1])):
        yield group, list(fields)


def _group_of(field: FieldInfo) -> str:
    assert isinstance(field.json_schema_extra, dict), "each setting is declared by _setting"
    return str(field.json_schema_extra["group"])


def _default_of(field: FieldInfo) -> str:
    """The default as it is written in the environment; empty where there is none."""
    default: Any = field.default
    match default:
        case None | ():
            return ""
        case bool():
            return str(default).lower()
        case float():
            return f"{default:g}"
        case SecretStr():
            return default.get_secret_value()
        case _:
            return str(default)
