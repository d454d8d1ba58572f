"""Reads the query of a request strictly: a parameter that a route does not know is refused and never ignored."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

from wallet.api.contract.bodies import ERRORS_MAX, printable
from wallet.api.contract.problems import Code, FieldError, refusal_of

_NO_NAME: Final = '""'


def read_parameters(query: str, known: Sequence[str]) -> dict[str, str]:
    """Returns the parameters by name, decoded. Raises Refused for unknown and for repeated ones."""
    values: dict[str, str] = {}
    errors: list[FieldError] = []
    for pair in query.split("&"):
        if not pair:
            continue
        raw_name, _, raw_value = pair.partition("=")
        name = _decoded(raw_name)
        if name not in known:
            errors.append(_unknown(name, known))
        elif name in values:
            errors.append(parameter_error(name, "is given twice"))
        else:
            values[name] = _decoded(raw_value)
        if len(errors) == ERRORS_MAX:
            break
    if errors:
        raise refusal_of(errors)
    return values


def parameter_error(name: str, detail: str) -> FieldError:
    """Returns what is wrong with a parameter of the query."""
    return FieldError(Code.INVALID_REQUEST, detail, parameter=name)


def _unknown(name: str, known: Sequence[str]) -> FieldError:
    takes = f"known are {', '.join(known)}" if known else "it takes none"
    return parameter_error(printable(name) or _NO_NAME, f"is not a query parameter of this route; {takes}")


def _decoded(text: str) -> str:
    """Escapes undone. A plus stays a plus: no value contains a blank, but a time's offset may be +02:00."""
    return unquote_to_bytes(text).decode("utf-8", "replace")
