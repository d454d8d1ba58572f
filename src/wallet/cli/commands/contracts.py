"""Writes the files that are generated from the code: the contracts, and in a checkout the documents that list the
settings.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from wallet.bootstrap import openapi_document
from wallet.cli.app import Panel, app
from wallet.cli.errands import give_up
from wallet.domain.events import SCHEMA_VERSION
from wallet.runtime.settings import env_example, with_settings_table
from wallet.wire.schemas import event_schemas


@app.command(rich_help_panel=Panel.DEVELOPMENT)
def contracts(
    directory: Annotated[Path, typer.Argument(help="Where to write them.")] = Path("contracts"),
) -> None:
    """Write the contracts: the OpenAPI document, and a JSON Schema for each event.

    In a checkout, also write `.env.example` and the table of the settings in README.md.
    """
    try:
        changed = [*write_contracts(directory), *write_settings_documents(directory.absolute().parent)]
    except OSError as error:
        give_up(f"{error.filename or directory} can't be written: {error.strerror or error}.")
    for path in changed:
        typer.echo(f"written {path}")
    if not changed:
        typer.echo("nothing to write: the files are what the code makes")


def contract_files() -> dict[str, str]:
    """Returns path below contracts/ → text. The golden examples beside them are not generated but kept: see
    tests/contract.
    """
    documents = {"openapi.json": openapi_document()}
    for event_type, schema in event_schemas().items():
        documents[f"events/{event_type}.v{SCHEMA_VERSION}.schema.json"] = schema
    return {path: document_text(document) for path, document in documents.items()}


def write_contracts(directory: Path) -> list[Path]:
    """Write every file. Returns those that were new or different."""
    changed = []
    for name, text in contract_files().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def settings_documents(root: Path) -> dict[Path, str]:
    """Returns path → text of the documents that list the settings, or nothing if this is not a checkout."""
    example, readme = root / ".env.example", root / "README.md"
    if not example.exists() or not readme.exists():
        return {}
    return {example: env_example(), readme: with_settings_table(readme.read_text(encoding="utf-8"))}


def write_settings_documents(root: Path) -> list[Path]:
    """Write those that differ. Returns them."""
    changed = [path for path, text in settings_documents(root).items() if path.read_text(encoding="utf-8") != text]
    for path in changed:
        path.write_text(settings_documents(root)[path], encoding="utf-8")
    return changed


def document_text(document: dict[str, Any]) -> str:
    """Returns the text of a contract, exactly as in its file."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


@app.command(rich_help_panel=Panel.DEVELOPMENT)
def openapi() -> None:
    """Print the OpenAPI document of the HTTP api."""
    # As bytes, so that the encoding of the terminal does not change them.
    typer.echo(document_text(openapi_document()).encode(), nl=False)
