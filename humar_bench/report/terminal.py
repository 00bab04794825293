"""Tables on a terminal, through rich: colour only where there is a terminal, plain text everywhere else."""

from __future__ import annotations

import os
from typing import TextIO

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from humar_bench.report.comparison import Comparison
from humar_bench.table import Column, Table

WIDEST = 10_000  # for measuring how wide a table wants to be
PLAIN_WIDTH = 160  # of a file or a pipe, which has no width of its own
_GAIN, _LOSS = ("fewer", "faster", "less"), ("more", "slower")


class _Console(Console):
    """Leaves it to the command line what a reader that has gone means."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def make_console(stream: TextIO, *, width: int | None = None) -> Console:
    """A console on `stream`; no colour when it is no terminal or NO_COLOR is set, whatever else the environment says."""
    terminal = hasattr(stream, "isatty") and stream.isatty()
    colour = terminal and not os.environ.get("NO_COLOR")
    return _Console(
        file=stream, force_terminal=terminal, color_system="auto" if colour else None, highlight=False, markup=False, emoji=False,
        width=width or (None if terminal else PLAIN_WIDTH), soft_wrap=False,
    )


def print_comparison(comparison: Comparison, console: Console) -> None:
    """All tables, then what they hold for."""
    for table in comparison.tables:
        print_table(table, console)
    for line in comparison.conditions:
        console.print(Text(line), style="dim")


def print_table(table: Table, console: Console) -> None:
    """The table as it is, or turned on its side where it is wider than the console and has one row an architecture."""
    shown = _rich(table)
    natural = Measurement.get(console, console.options.update(max_width=WIDEST), shown).maximum
    if natural > console.width and _per_architecture(table):
        shown = _rich(table.turned())
    console.print(Text(table.title), style="bold")
    console.print(shown)
    for note in table.notes:
        console.print(Text(note), style="bold" if "NOT COUNTED" in note else "dim")
    console.print()


def _per_architecture(table: Table) -> bool:
    names = [row.get("architecture") for row in table.rows]
    return table.columns[0].key == "architecture" and len(set(names)) == len(names)


def _rich(table: Table) -> RichTable:
    shown = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for column in table.columns:
        shown.add_column(Text(column.heading), justify="left" if column.text else "right", overflow="fold")
    for row in table.cells():
        cells = [_cell(column, cell) for column, cell in zip(table.columns, row, strict=True)]
        shown.add_row(*cells, style="bold" if row[0] == "total" else None)
    return shown


def _cell(column: Column, cell: str) -> Text:
    judges = column.key in ("against", "note") or column.key.startswith("~")
    if judges and cell.endswith(_GAIN):
        return Text(cell, style="green")
    return Text(cell, style="red" if judges and (cell.endswith(_LOSS) or cell.startswith("failed")) else "")
