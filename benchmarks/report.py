"""The result: a table for people, and a JSON file with the figures of every run."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.effort import Effort
from benchmarks.figures import Figure
from benchmarks.scenarios import Criterion
from benchmarks.verdicts import Line, Row

PLAIN_WIDTH: Final = 150
COLUMNS: Final = ("scenario", "figure", "yardstick", "ratio", "must reach", "", "with pipeline", "quiet after")


def table_of(rows: Sequence[Row]) -> Table:
    """Returns the table with one line for each criterion; a scenario's first line also has its other figures."""
    table = Table(*COLUMNS, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        for number, line in enumerate(row.lines):
            cells = _cells(line, has_fault=bool(row.measured.faults))
            table.add_row(row.scenario.name if number == 0 else "", *cells, *(_pipeline(row) if number == 0 else ()))
    return table


def print_report(console: Console, rows: Sequence[Row]) -> None:
    """Prints the table, the faults and the verdict."""
    if not console.is_terminal:
        console.width = PLAIN_WIDTH  # A file or a pipe has no width.
    console.print(table_of(rows))
    for row in rows:
        for fault in row.measured.faults:
            console.print(f"✗ {row.scenario.name}: {fault}", style="red", markup=False)
    console.print(verdict(rows), style="bold green" if all(row.is_met for row in rows) else "bold red")


def verdict(rows: Sequence[Row]) -> str:
    """Returns the last line of the report: how many scenarios reach their goals."""
    short = [row.scenario.name for row in rows if not row.is_met]
    if short:
        return f"{len(rows) - len(short)} of {len(rows)} scenarios reach their goals; missed by: {', '.join(short)}"
    return f"all {len(rows)} scenarios reach their goals"


def document_of(rows: Sequence[Row], effort: Effort, machine: dict[str, Any], servers: dict[str, Any]) -> str:
    """Returns the whole result as JSON."""
    document = {
        "machine": machine,
        "servers": servers,
        "effort": asdict(effort),
        "is_met": all(row.is_met for row in rows),
        "scenarios": [_scenario(row) for row in rows],
    }
    return json.dumps(document, indent=2, default=str) + "\n"


def write_document(path: Path, document: str) -> None:
    """Writes the JSON file, and creates its directory if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document, encoding="utf-8")


def _cells(line: Line, *, has_fault: bool) -> tuple[str, ...]:
    criterion = line.criterion
    figure = f"{criterion.figure} {_shown(line.figure, criterion.unit)}"
    name = criterion.against or criterion.shown_beside
    against = f"{name} {_shown(line.against, criterion.unit)}" if name else ""
    ratio = f"{line.ratio:.3f} ×" if line.ratio is not None else ""
    mark = "[green]✓[/]" if line.is_met and not has_fault else "[red]✗[/]"
    return figure, against, ratio, must_reach(criterion), mark


def must_reach(criterion: Criterion) -> str:
    """Returns a criterion's comparison and limit as text."""
    limit = f"{criterion.limit:,.2f} ×" if criterion.against else f"{criterion.limit:,g}{criterion.unit}"
    return f"{criterion.bound.value} {limit}"


def _pipeline(row: Row) -> tuple[str, ...]:
    measured = row.measured
    drained = "" if measured.drain_seconds is None else f"{measured.drain_seconds:,.1f} s"
    return (_shown(measured.with_pipeline, "/s") if measured.with_pipeline else "", drained)


def _shown(figure: Figure | None, unit: str) -> str:
    if figure is None:
        return "–"
    digits = 0 if figure.median >= 100 else 2
    spread = f" ±{figure.spread * 100:.0f} %" if len(figure.runs) > 1 else ""
    return f"{figure.median:,.{digits}f}{unit}{spread}"


def _scenario(row: Row) -> dict[str, Any]:
    measured = row.measured
    return {
        "name": row.scenario.name,
        "title": row.scenario.title,
        "is_met": row.is_met,
        "faults": measured.faults,
        "seconds": row.seconds,
        "criteria": [
            {
                "figure": line.criterion.figure,
                "unit": line.criterion.unit.strip(),
                "median": line.figure.median if line.figure else None,
                "against": line.criterion.against or line.criterion.shown_beside,
                "against_median": line.against.median if line.against else None,
                "ratio": line.ratio,
                "must_reach": must_reach(line.criterion),
                "is_met": line.is_met,
            }
            for line in row.lines
        ],
        "figures": {name: _figure(figure) for name, figure in measured.figures.items()},
        "yardsticks": {name: _figure(figure) for name, figure in measured.against.items()},
        "with_pipeline": _figure(measured.with_pipeline) if measured.with_pipeline else None,
        "quiet_after_seconds": measured.drain_seconds,
        "raw": measured.raw,
    }


def _figure(figure: Figure) -> dict[str, Any]:
    return {"median": figure.median, "spread": figure.spread, "runs": figure.runs}
