"""The contracts as files: the HTTP api's OpenAPI document and a JSON Schema for each event."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from wallet.bootstrap import openapi_document
from wallet.domain.events import SCHEMA_VERSION
from wallet.wire.schemas import event_schemas


def contracts(
    directory: Annotated[Path, typer.Argument(help="Where to write them.")] = Path("contracts"),
) -> None:
    """Write the contracts: the OpenAPI document, and a JSON Schema for each event."""
    changed = write_contracts(directory)
    for path in changed:
        typer.echo(f"written {path}")
    if not changed:
        typer.echo("nothing to write: the files are what the code makes")


def contract_files() -> dict[str, str]:
    """Path below contracts/ → text. The golden examples beside them are not made but kept: see tests/contract."""
    documents = {"openapi.json": openapi_document()}
    for event_type, schema in event_schemas().items():
        documents[f"events/{event_type}.v{SCHEMA_VERSION}.schema.json"] = schema
    return {path: document_text(document) for path, document in documents.items()}


def write_contracts(directory: Path) -> list[Path]:
    """Write every file; returns those that were new or different."""
    changed = []
    for name, text in contract_files().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def document_text(document: dict[str, Any]) -> str:
    """Returns the text of a contract, to the byte as its file has it."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
