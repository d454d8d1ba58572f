"""Swagger UI's files, taken from the package that brings them and served from here, so that no CDN is needed."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Final

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
# Swagger UI writes style attributes, so styles must be allowed inline; scripts need not be, and are not.
_CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class SwaggerMissing(Exception):
    """Swagger UI's files are not installed: install flask-swagger-ui, or set ENABLE_SWAGGER=false."""

    def __str__(self) -> str:
        """The docstring is the message."""
        return self.__doc__ or ""


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
    # Located without an import: the import would need Flask, which only the package's own code uses.
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SwaggerMissing
    return Path(spec.submodule_search_locations[0])
