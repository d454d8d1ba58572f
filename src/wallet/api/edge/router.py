"""Finds the route of a request: its resource, and the variable parts of its path."""

from collections.abc import Iterable, Mapping
from typing import Final

from wallet.access.principal import Access, Scope
from wallet.api.contract.problems import Code, Refused
from wallet.api.contract.query import read_parameters
from wallet.api.contract.route import Route
from wallet.api.edge.exchange import Exchange

_HEAD: Final = "HEAD"
_OPTIONS: Final = "OPTIONS"
NO_SUCH_ROUTE: Final = "There is no such route; /openapi.json lists them."


class Resource:
    """One path: its routes by method. HEAD is served as GET."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.has_bulk_body = False
        """Whether a body may be as long as that of a bulk request."""
        self._routes: dict[str, Route] = {}

    def add(self, route: Route) -> None:
        """Add one more method."""
        assert route.method not in self._routes, f"{route.method} {self.path} is declared twice"
        self._routes[route.method] = route
        self.has_bulk_body |= route.has_bulk_body
        if route.method == "GET":
            self._routes[_HEAD] = route

    def access_of(self, method: str) -> Scope | Access:
        """Returns what the route of a method requires; OPTIONS, and a method without a route, move and read nothing."""
        route = self._routes.get(method)
        return Access.PUBLIC if route is None else route.access

    @property
    def allowed(self) -> str:
        """Returns the methods in the format of the Allow header."""
        return ", ".join([*self._routes, _OPTIONS])

    def route_for(self, exchange: Exchange) -> Route | None:
        """Returns the route of a request, or None for OPTIONS, and reads the query into the exchange.

        Raises Refused for another method, and for parameters of the query that the route does not have.
        """
        method = exchange.method
        route = self._routes.get(method)
        if route is None and method != _OPTIONS:
            headers = {"Allow": self.allowed}
            raise Refused(Code.METHOD_NOT_ALLOWED, f"This route takes {self.allowed}.", headers=headers)
        if exchange.query:
            routes = self._routes.values() if route is None else (route,)
            names = [name for each in routes for name in each.query_parameters]
            exchange.parameters = read_parameters(exchange.query, list(dict.fromkeys(names)))
        return route


class _Node:
    """The possible next segments of a path: fixed ones, or one variable segment with any text."""

    __slots__ = ("fixed", "name", "resource", "variable")

    def __init__(self) -> None:
        self.fixed: dict[str, _Node] = {}
        self.variable: _Node | None = None
        self.name = ""
        self.resource: Resource | None = None


class Router:
    """The table of the routes as a tree of path segments; a fixed segment has priority over a variable one."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        for route in routes:
            for path in (route.path, *route.aliases):
                self._resource(path).add(route)

    def find(self, path: str) -> tuple[Resource | None, Mapping[str, str]]:
        """Returns the resource of a decoded path, or None if there is none, and its variable parts by name.

        One slash at the end is accepted.
        """
        node, values = self._root, dict[str, str]()
        segments = path.removesuffix("/").split("/")
        for segment in segments[1:]:
            following = node.fixed.get(segment)
            if following is None:
                following = node.variable
                if following is None:
                    return None, values
                values[node.name] = segment
            node = following
        return node.resource, values

    def _resource(self, path: str) -> Resource:
        node = self._root
        for segment in path.removesuffix("/").split("/")[1:]:
            if segment.startswith("{"):
                node.name = segment.strip("{}")
                node.variable = node.variable or _Node()
                node = node.variable
            else:
                node = node.fixed.setdefault(segment, _Node())
        if node.resource is None:
            node.resource = Resource(path)
        return node.resource
