"""Generates the OpenAPI 3.1 document from the types of requests and responses.

It describes every route of the table that has a tag.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from wallet.access.principal import Access, Scope
from wallet.api.contract.problems import CONTENT_TYPE, KINDS, Code, Problem, problem_body
from wallet.api.contract.route import Parameter, Route
from wallet.api.contract.schemas import JSON, RequestIdText, history_schemas
from wallet.version import version

_REFERENCE: Final = "#/components/schemas/{name}"
_DESCRIPTION: Final = """\
Deposits, withdrawals and transfers between wallets: exact money, safe retries, an append-only log.

**Money** comes in as a JSON number or a decimal string and goes out as a string with 4 decimals.

**Safe retries**: give each request a key, as `requestId` in the body or as the header `Idempotency-Key`. \
The same key with the same request gets the first answer again, byte for byte, with `Idempotency-Replayed: true`. \
The same key with another request gets 422, and nothing moves. A refusal is an answer too: it is stored and \
replayed. After a 503 retry with the same key.

**Errors** are RFC 9457 problems; branch on `code`. `message` and `statusCode` repeat `detail` and `status`.

**Requests** are read strictly: an unknown or repeated query parameter and an unknown body field are refused with 400. \
A trailing slash is accepted. `OPTIONS` answers 204 with the methods in `Allow`; there are no CORS headers, so a \
browser does not let a page of another site send requests.
"""


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """Returns the whole document; the same version of the code always returns the same document."""
    routes = [route for route in routes if route.tag is not None]
    shapes = [Problem, *(shape for route in routes for shape in _shapes_of(route))]
    _, components = msgspec.json.schema_components(shapes, ref_template=_REFERENCE)
    components |= history_schemas(components["HistoryItem"], _REFERENCE)
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    whole = {
        "openapi": "3.1.0",
        "info": {
            "title": "Wallet",
            "version": version(),
            "description": _DESCRIPTION,
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The server that this document comes from."}],
        "tags": [
            {"name": "money", "description": "Move money."},
            {"name": "reading", "description": "Read wallets."},
            {"name": "operating", "description": "Monitor the service."},
        ],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "headers": _HEADERS,
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": _KEY_DESCRIPTION,
                }
            },
        },
    }
    # Encoded and decoded as JSON, so that it equals the document that a reader gets: lists, no tuples.
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(whole))
    return plain


def _shapes_of(route: Route) -> list[Any]:
    return [shape for shape in (route.request, route.response) if shape is not None]


def _operation(route: Route) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": route.operation_id,
        "tags": [route.tag],
        "summary": route.summary,
        "description": route.description,
        "parameters": [_parameter(parameter) for parameter in route.parameters],
        "responses": {str(route.status): _success(route), **_problems(route.all_codes)},
    }
    if route.access is not Access.PUBLIC:
        scopes = [route.access.value] if isinstance(route.access, Scope) else []
        described["security"] = [{"apiKey": scopes}]
    if route.request is not None:
        described["requestBody"] = {
            "required": True,
            "content": {
                JSON: {
                    "schema": _schema(route.request),
                    "examples": {name: {"value": value} for name, value in route.request_examples.items()},
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


def _success(route: Route) -> dict[str, Any]:
    schema = {"type": "string"} if route.response is None else _schema(route.response)
    content: dict[str, Any] = {"schema": schema}
    if route.response_example is not None:
        content["examples"] = {"success": {"value": route.response_example}}
    return {
        "description": route.success,
        "headers": _header_references("X-Request-Id", "traceparent", *route.headers),
        "content": {route.content_type: content},
    }


def _problems(codes: tuple[Code, ...]) -> dict[str, Any]:
    by_status: dict[int, list[Code]] = {}
    for code in codes:
        by_status.setdefault(KINDS[code].status, []).append(code)
    return {str(status): _problem(status, same) for status, same in sorted(by_status.items())}


def _problem(status: int, codes: list[Code]) -> dict[str, Any]:
    names = ["X-Request-Id", "traceparent", *_HEADERS_OF_STATUS.get(status, ())]
    description = "; ".join(f"`{code}`: {KINDS[code].title}" for code in codes)
    return {
        "description": f"{description}. {_RETRY}" if Code.NOT_EXECUTED in codes else description,
        "headers": _header_references(*names),
        "content": {
            CONTENT_TYPE: {
                "schema": _schema(Problem),
                "examples": {str(code): {"value": _problem_example(code)} for code in codes},
            }
        },
    }


def _problem_example(code: Code) -> dict[str, Any]:
    example: dict[str, Any] = msgspec.json.decode(problem_body(code, f"{KINDS[code].title}."))
    return example


def _schema(shape: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([shape], ref_template=_REFERENCE)
    return schema


def _header_references(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


_KEY_DESCRIPTION: Final = (
    "An API key, created with `wallet key create`. Each operation names the scope that the key needs; each operation "
    "of a bulk request needs the scope of its own route. A key can be bound to prefixes of wallet ids: any other "
    "wallet is answered as one that does not exist. While no key was ever created, an api that listens on loopback "
    "needs none."
)
_RETRY: Final = (
    "Each describes this attempt. `not_executed`: it had no effect, and the process that answers has no other attempt "
    "with the key that may still take effect; one through another process, or before a restart, may. "
    "`outcome_unknown`: this or an earlier attempt may or may not take effect. "
    "Send the request again with the same key."
)

_HEADERS_OF_STATUS: Final = {
    401: ("WWW-Authenticate",),
    429: ("Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"),
    503: ("Retry-After",),
}
_HEADERS: Final[dict[str, Any]] = {
    "X-Request-Id": {
        "description": (
            "The id of this request: the one that was sent, if it is well-formed, otherwise a new one. The log line "
            "of the request and the audit trail contain it."
        ),
        "schema": _schema(RequestIdText) | {"description": "An id.", "examples": ["4f1f7a3c"]},
    },
    "traceparent": {
        "description": "The W3C trace context: the request's own if it was well-formed, otherwise a new one.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
    },
    "Idempotency-Replayed": {
        "description": "Present if this is the answer to an earlier request with the same key.",
        "schema": {"type": "string", "const": "true"},
    },
    "Retry-After": {
        "description": "Seconds to wait before the retry.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "WWW-Authenticate": {
        "description": "How to send a key: Bearer.",
        "schema": {"type": "string"},
    },
    "RateLimit-Limit": {
        "description": "How many requests are accepted at once.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "RateLimit-Remaining": {
        "description": "How many requests are accepted now.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "RateLimit-Reset": {
        "description": "Seconds until the next request is accepted.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "Link": {
        "description": 'The next page, if there is one: `<PATH?limit=…&cursor=…>; rel="next"`.',
        "schema": {"type": "string"},
    },
}
