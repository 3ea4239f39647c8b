"""Tables: ruled on a terminal, plain aligned columns in a pipe, where nothing is ever cut or wrapped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import typer


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print rows under headers. Numbers stand to the right; None is a dash."""
    kept = [list(row) for row in rows]
    numeric = [
        bool(kept) and all(row[column] is None or isinstance(row[column], int) for row in kept)
        for column in range(len(headers))
    ]
    cells = [["-" if cell is None else str(cell) for cell in row] for row in kept]
    if sys.stdout.isatty():
        _ruled(headers, cells, numeric, title)
        return
    if title:
        typer.echo(title)
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    for line in (list(headers), *cells):
        aligned = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        typer.echo("  ".join(aligned).rstrip())


def _ruled(headers: Sequence[str], cells: list[list[str]], numeric: list[bool], title: str | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for header, right in zip(headers, numeric, strict=True):
        shown.add_column(header, justify="right" if right else "left", overflow="fold")
    for line in cells:
        shown.add_row(*line)
    Console(highlight=False, markup=False).print(shown)
