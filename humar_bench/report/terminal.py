"""Tables on a terminal, through rich: colour only where there is a terminal, plain text everywhere else."""

from __future__ import annotations

import os
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from humar_bench.report.comparison import Comparison
from humar_bench.report.files import REPORT_NAME
from humar_bench.report.layout import Sheet, laid_out
from humar_bench.report.speed_table import verdict_lines
from humar_bench.table import SUMMARY, Column, Table, visible

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


def print_comparison(comparison: Comparison, console: Console, *, details: bool = True, folder: str | None = None) -> None:
    """All tables, then what they hold for. Where there is a summary it comes last, with the verdicts; without `details` it is all there
    is, and says where the rest is: in `folder`, if there is one."""
    tables = [table for table in comparison.tables if table.name != SUMMARY]
    if details or len(tables) == len(comparison.tables):
        for table in tables:
            print_table(table, console)
        for line in comparison.conditions:
            print_line(line, console, "dim")
    if len(tables) < len(comparison.tables):
        if details:
            console.print()
        _print_summary(comparison, console)
        if not details:
            print_line(_where(folder), console, "dim")


def _print_summary(comparison: Comparison, console: Console) -> None:
    """What fits on one screen: the summary, a line for each verdict, and what they hold for."""
    [summary] = [table for table in comparison.tables if table.name == SUMMARY]
    print_table(summary, console)
    for line in verdict_lines(comparison.speeds, comparison.best_speeds):
        print_line(line, console)
    for line in comparison.shares.lines:
        print_line(line, console)
    for line in comparison.essentials:
        print_line(line, console, "dim")


def _where(folder: str | None) -> str:
    if folder is None:
        return "--details shows every table, -o DIR keeps them."
    return f"Every table: {os.path.join(folder, REPORT_NAME)}, or --details."


def print_line(text: str, console: Console, style: str = "") -> None:
    """One sentence; what a terminal would act on is shown as its escape."""
    console.print(Text(visible(text)), style=style)


def print_table(table: Table, console: Console) -> None:
    """The table as it is, or turned on its side or in parts where it is wider than the console (`layout`)."""
    print_line(table.title, console, "bold")
    for index, sheet in enumerate(laid_out(table, console.width)):
        if index:
            console.print()
        console.print(_rich(sheet))
    for note in table.notes:
        print_line(note, console, "bold" if "NOT COUNTED" in note else "dim")
    console.print()


def _rich(sheet: Sheet) -> RichTable:
    shown = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for column, width in zip(sheet.table.columns, sheet.widths, strict=True):
        shown.add_column(Text(column.heading), justify="left" if column.text else "right", overflow="fold", width=width)
    for row in sheet.table.cells():
        cells = [_cell(column, cell) for column, cell in zip(sheet.table.columns, row, strict=True)]
        shown.add_row(*cells, style="bold" if row[0] == "total" else None)
    return shown


def _cell(column: Column, cell: str) -> Text:
    judges = column.key in ("against", "note") or column.key.startswith("~")
    if judges and cell.endswith(_GAIN):
        return Text(cell, style="green")
    return Text(cell, style="red" if judges and (cell.endswith(_LOSS) or cell.startswith("failed")) else "")
