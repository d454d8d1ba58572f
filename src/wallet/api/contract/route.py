"""A route: one entry of the table from which everything about it is derived.

The entries are read by the router, for HEAD and OPTIONS, for the query's parameters, the limit of the body and the
label in metrics, by the OpenAPI document, and by the contract tests. Each file in routes/ declares its own;
`app.ROUTES` joins them.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from wallet.access.principal import Access, Scope
from wallet.api.contract.problems import Code
from wallet.api.contract.reply import Reply
from wallet.api.contract.schemas import JSON, WalletIdText
from wallet.api.edge.exchange import Exchange
from wallet.api.services import Services


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value in the path, the query or a header; the schema is a type, or JSON Schema itself."""

    name: str
    place: Literal["path", "query", "header"]
    description: str
    schema: Any


Handler = Callable[[Services, Exchange], Awaitable[Reply]]
"""Serves one request. Raises Refused, or any other exception for a bug."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path. A GET is served as HEAD too. A route without a tag is not in the OpenAPI document."""

    method: Literal["GET", "POST"]
    path: str
    handler: Handler
    access: Scope | Access
    aliases: tuple[str, ...] = ()
    has_bulk_body: bool = False
    operation_id: str = ""
    tag: Literal["money", "reading", "operating"] | None = None
    summary: str = ""
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    request: Any = None
    request_examples: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    success: str = ""
    response: Any = None
    response_example: Any = None
    content_type: str = JSON
    headers: tuple[str, ...] = ()
    codes: tuple[Code, ...] = ()

    @property
    def all_codes(self) -> tuple[Code, ...]:
        """Returns the codes of the route, and those of the check of its key."""
        return self.codes if self.access is Access.PUBLIC else (*self.codes, *_KEY_CODES)

    @property
    def query_parameters(self) -> tuple[str, ...]:
        """Returns the names of parameters that the query may have."""
        return tuple(parameter.name for parameter in self.parameters if parameter.place == "query")


_KEY_CODES: Final = (Code.UNAUTHENTICATED, Code.FORBIDDEN, Code.RATE_LIMITED, Code.UNAVAILABLE)
WALLET_ID: Final = Parameter("id", "path", "The id of the wallet.", WalletIdText)
ANY: Final = (Code.INTERNAL_ERROR,)
READ: Final = (Code.INVALID_REQUEST, Code.UNAVAILABLE, *ANY)
"""The refusals of every route that reads."""
