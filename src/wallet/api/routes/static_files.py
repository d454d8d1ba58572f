"""Serves files that never change while the process runs: those of Swagger UI, from its package, so that no CDN is
needed.

Each file is compressed once, at its first use and in a thread, so that neither the start nor other requests wait for
it. It has an ETag, and is not sent again to a client that already has it.
"""

import asyncio
import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from wallet.api.contract.reply import Reply
from wallet.api.edge.exchange import Exchange
from wallet.runtime.errors import ExplainedError

GZIP_LEVEL: Final = 6
_QUALITY_DEFAULT: Final = 1.0
_COMPRESSED_KINDS: Final = ("image/",)
"""Content types that are compressed already."""
_PACKAGE: Final = "flask_swagger_ui"
_TAKEN: Final[Mapping[str, str]] = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui-standalone-preset.js": "text/javascript; charset=utf-8",
    "favicon-16x16.png": "image/png",
    "favicon-32x32.png": "image/png",
}
_OURS: Final[Mapping[str, str]] = {
    "index.html": "text/html; charset=utf-8",
    "start.js": "text/javascript; charset=utf-8",
}
# Swagger UI writes style attributes, so inline styles must be allowed; inline scripts are not needed and not allowed.
_CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class StaticFile:
    """One file, and its gzip form once a client has asked for that."""

    def __init__(
        self, content: bytes, content_type: str, *, cache_control: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self.content = content
        self.content_type = content_type
        self._cache_control = cache_control
        self._headers = headers
        self._digest = sha256(content).hexdigest()[:32]
        self._is_compressible = not content_type.startswith(_COMPRESSED_KINDS)
        self._compressing = asyncio.Lock()
        self._compressed: bytes | None = None

    async def reply(self, exchange: Exchange) -> Reply:
        """Returns the file in the encoding that the client prefers, or 304 if the client has it already."""
        is_packed = self._is_compressible and prefers_gzip(exchange.headers.get("accept-encoding"))
        headers = (
            ("Vary", "Accept-Encoding"),
            ("Cache-Control", self._cache_control),
            # Each encoding is a separate representation, and so has its own tag.
            ("ETag", self._tag(is_packed=is_packed)),
            *self._headers,
        )
        if self._is_known(exchange.headers.get("if-none-match"), is_packed=is_packed):
            return Reply(b"", "", HTTPStatus.NOT_MODIFIED, headers)
        if is_packed:
            headers = (*headers, ("Content-Encoding", "gzip"))
        content = await self._gzipped() if is_packed else self.content
        return Reply(content, self.content_type, headers=headers, is_in_pieces=True)

    async def _gzipped(self) -> bytes:
        async with self._compressing:
            if self._compressed is None:
                self._compressed = await asyncio.to_thread(gzip.compress, self.content, GZIP_LEVEL, mtime=0)
            return self._compressed

    def _tag(self, *, is_packed: bool) -> str:
        return f'"{self._digest}{"-gzip" if is_packed else ""}"'

    def _is_known(self, if_none_match: str | None, *, is_packed: bool) -> bool:
        if if_none_match is None:
            return False
        tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
        return "*" in tags or self._tag(is_packed=is_packed) in tags


def prefers_gzip(accept_encoding: str | None) -> bool:
    """Returns whether gzip is accepted, and not less than the plain form where the header rates that itself."""
    if accept_encoding is None:
        return False
    qualities = dict(_qualities(accept_encoding))
    quality = qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0)))
    return quality > 0 and quality >= qualities.get("identity", 0.0)


def _qualities(accept_encoding: str) -> Iterator[tuple[str, float]]:
    for item in accept_encoding.lower().split(","):
        coding, *parameters = (part.strip() for part in item.split(";"))
        quality = _QUALITY_DEFAULT
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                quality = _quality_of(value.strip())
        yield coding, quality


def _quality_of(text: str) -> float:
    """The weight of a coding; one that is malformed counts as "not accepted", so the plain file is sent."""
    try:
        quality = float(text)
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0


class SwaggerMissing(ExplainedError):
    """Swagger UI's files are not installed: install flask-swagger-ui, or set ENABLE_SWAGGER=false."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is served."""

    content: bytes
    content_type: str


def load_assets() -> dict[str, Asset]:
    """Every file of the page by its name. Raises SwaggerMissing."""
    ours, theirs = files("wallet.api").joinpath("static"), _package_folder() / "dist"
    try:
        return {name: Asset((theirs / name).read_bytes(), kind) for name, kind in _TAKEN.items()} | {
            name: Asset(ours.joinpath(name).read_bytes(), kind) for name, kind in _OURS.items()
        }
    except FileNotFoundError:
        raise SwaggerMissing from None


def page_headers() -> dict[str, str]:
    """What the page may load, and from where."""
    return {"Content-Security-Policy": _CONTENT_SECURITY_POLICY, "Referrer-Policy": "no-referrer"}


def _package_folder() -> Path:
    # The package is located without an import: the import would need Flask, which only the package's own code uses.
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SwaggerMissing
    return Path(spec.submodule_search_locations[0])
