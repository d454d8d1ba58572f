"""The OpenAPI 3.1 document, generated from the types that requests and responses are made of.

The tables in `operations` say what each route takes and gives; this module only writes it down.
"""

from typing import Any, Final

import msgspec

from wallet.api.operations import OPERATIONS, Operation, Parameter
from wallet.api.problems import CONTENT_TYPE, KINDS, Code, Problem, type_of
from wallet.api.schemas import JSON, RequestIdText

VERSION: Final = "1.0.0"
_REFERENCE: Final = "#/components/schemas/{name}"
_DESCRIPTION: Final = """\
Deposits, withdrawals and transfers between wallets: exact money, safe retries, an append-only log.

**Money** comes in as a JSON number or a decimal string and goes out as a string with 4 decimals.

**Safe retries**: give each request a key, as `requestId` in the body or as the header `Idempotency-Key`. \
The same key with the same request gets the first answer again, byte for byte, with `Idempotency-Replayed: true`. \
The same key with another request gets 422, and nothing moves. A refusal is an answer too: it is stored and \
replayed. After a 503 retry with the same key.

**Errors** are RFC 9457 problems; branch on `code`.
"""


def document() -> dict[str, Any]:
    """The whole document; the same version of the code always gives the same."""
    shapes = [Problem, *(shape for operation in OPERATIONS for shape in _shapes_of(operation))]
    _, components = msgspec.json.schema_components(shapes, ref_template=_REFERENCE)
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    whole = {
        "openapi": "3.1.0",
        "info": {"title": "Wallet", "version": VERSION, "description": _DESCRIPTION},
        "tags": [
            {"name": "money", "description": "Move money."},
            {"name": "reading", "description": "Look at wallets."},
            {"name": "operating", "description": "Watch the service."},
        ],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "headers": _HEADERS,
        },
    }
    # Once through JSON, so that it is exactly what a reader of the document gets: lists, no tuples.
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(whole))
    return plain


def _shapes_of(operation: Operation) -> list[Any]:
    return [shape for shape in (operation.request, operation.response) if shape is not None]


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.operation_id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "parameters": [_parameter(parameter) for parameter in operation.parameters],
        "responses": {str(operation.status): _success(operation), **_problems(operation.codes)},
    }
    if operation.request is not None:
        described["requestBody"] = {
            "required": True,
            "content": {
                JSON: {
                    "schema": _schema(operation.request),
                    "examples": {name: {"value": value} for name, value in operation.request_examples.items()},
                }
            },
        }
    return described


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": parameter.schema if isinstance(parameter.schema, dict) else _schema(parameter.schema),
    }


def _success(operation: Operation) -> dict[str, Any]:
    schema = {"type": "string"} if operation.response is None else _schema(operation.response)
    content: dict[str, Any] = {"schema": schema}
    if operation.response_example is not None:
        content["examples"] = {"success": {"value": operation.response_example}}
    return {
        "description": operation.success,
        "headers": _header_references("X-Request-Id", "traceparent", *operation.headers),
        "content": {operation.content_type: content},
    }


def _problems(codes: tuple[Code, ...]) -> dict[str, Any]:
    by_status: dict[int, list[Code]] = {}
    for code in codes:
        by_status.setdefault(KINDS[code].status, []).append(code)
    return {str(status): _problem(status, same) for status, same in sorted(by_status.items())}


def _problem(status: int, codes: list[Code]) -> dict[str, Any]:
    names = ["X-Request-Id", "traceparent"] + (["Retry-After"] if status == 503 else [])
    return {
        "description": "; ".join(f"`{code}`: {KINDS[code].title}" for code in codes),
        "headers": _header_references(*names),
        "content": {
            CONTENT_TYPE: {
                "schema": _schema(Problem),
                "examples": {str(code): {"value": _problem_example(code)} for code in codes},
            }
        },
    }


def _problem_example(code: Code) -> dict[str, Any]:
    kind = KINDS[code]
    return {
        "type": type_of(code),
        "title": kind.title,
        "status": kind.status,
        "detail": f"{kind.title}.",
        "code": str(code),
    }


def _schema(shape: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([shape], ref_template=_REFERENCE)
    return schema


def _header_references(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


_HEADERS: Final[dict[str, Any]] = {
    "X-Request-Id": {
        "description": "The request's own if it sent a well-formed one, else a new one. "
        "It is in the log line of the request and in the audit trail.",
        "schema": _schema(RequestIdText) | {"description": "An id.", "examples": ["4f1f7a3c"]},
    },
    "traceparent": {
        "description": "W3C trace context: the request's own if it was well-formed, else a new one.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
    },
    "Idempotency-Replayed": {
        "description": "Present where the answer is that of an earlier request with the same key.",
        "schema": {"type": "string", "const": "true"},
    },
    "Retry-After": {
        "description": "Seconds to wait before the retry.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "Link": {
        "description": 'The next page, where there is one: `</wallet/…/history?…>; rel="next"`.',
        "schema": {"type": "string"},
    },
}
