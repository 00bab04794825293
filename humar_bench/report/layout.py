"""A table on a screen of some width: as it is, turned on its side, or in parts, and how wide each column is. No word is broken inside.

What is tried, first what is easiest to read: the table as it is; turned on its side, where it has one row an architecture; with headings
over several lines; values and ratios in tables of their own, those of a summary whichever way takes fewer lines; texts over several lines;
a few architectures or columns at a time. Only where not even one fits is a word broken.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence

from rich.cells import cell_len

from humar_bench.table import SUMMARY, Column, Table

GAP = 3  # between two columns
_OF_A_SIDE = ("=", "~", "%", "calls ")  # what the key of an architecture's column begins with
_OF_THE_ONE_BEFORE = ("x", "95 % interval")  # titles that say nothing without the column before
WHOLE = 24  # a number or a ratio with its interval up to this long stays on one line
_Parts = list[Table]


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table, or one of its parts, and the width of each column."""

    table: Table
    widths: tuple[int, ...]


def laid_out(table: Table, width: int) -> list[Sheet]:
    """The sheets that show a table on a screen of `width` characters."""
    parts = [table]
    for parts, wanted in _ways(table, width):
        if all(total(wanted(each)) <= width for each in parts):
            break
    return [Sheet(each, tuple(_shrunk(each, width))) for each in parts]


def _ways(table: Table, width: int) -> Iterable[tuple[_Parts, Callable[[Table], list[int]]]]:
    """Parts, and how wide their columns have to be at least for this way to be taken."""
    yield [table], natural
    if _per_architecture(table):
        yield [table.turned()], natural
        yield [table], one_line_cells
        table = table.turned()
    yield [table], one_line_cells
    apart = [_without(table, "~")]
    ratios = len(table.columns) - len(apart[0].columns)
    if ratios <= 1:
        yield [table], least
    if ratios:
        apart.append(_only_filled(_part(table, (each for each in table.columns if each is table.columns[0] or each.key.startswith("~")))))
    if table.name == SUMMARY:
        apart = [min((each, each.turned()), key=lambda way: _lines(way, width)) for each in apart]
    yield [few for each in apart for few in _few_at_a_time(each, width)], least


def total(widths: Sequence[int]) -> int:
    """Characters of a line."""
    return sum(widths) + GAP * (len(widths) - 1)


def natural(table: Table) -> list[int]:
    """How wide each column is with every heading and cell on one line."""
    return [max(map(cell_len, texts)) for _, texts in _texts(table)]


def one_line_cells(table: Table) -> list[int]:
    """How wide each column must be for headings alone to go over several lines."""
    cells = [max(map(cell_len, texts[1:]), default=0) for _, texts in _texts(table)]
    return [max(pair) for pair in zip(cells, least(table), strict=True)]


def least(table: Table) -> list[int]:
    """How wide each column must be for no word to be broken, and no number or ratio to go over two lines."""
    widths = []
    for column, (heading, *cells) in _texts(table):
        pieces = [piece for cell in cells for piece in ([cell] if _stays_whole(column, cell) else cell.split())]
        widths.append(max(map(cell_len, [*heading.split(), *pieces]), default=0))
    return widths


def _texts(table: Table) -> list[tuple[Column, list[str]]]:
    """Every column with its heading and cells."""
    return [(column, [column.heading, *cells]) for column, cells in zip(table.columns, _columns_of(table), strict=True)]


def _columns_of(table: Table) -> list[list[str]]:
    rows = table.cells()
    return [[row[at] for row in rows] for at in range(len(table.columns))]


def _stays_whole(column: Column, cell: str) -> bool:
    return cell_len(cell) <= WHOLE and (not column.text or column.key == "against" or column.key.startswith("~"))


def _shrunk(table: Table, width: int) -> list[int]:
    """Column widths that fit, if they can: first headings go over several lines, then texts, then words are broken."""
    widths = natural(table)
    for floor in (one_line_cells(table), least(table), [1] * len(widths)):
        while total(widths) > width and any(now > low for now, low in zip(widths, floor, strict=True)):
            widest = max((now, at) for at, (now, low) in enumerate(zip(widths, floor, strict=True)) if now > low)[1]
            widths[widest] -= 1
    return widths


def _lines(table: Table, width: int) -> float:
    """Lines of the table on a screen of `width`; infinite where it does not fit."""
    if total(least(table)) > width:
        return math.inf
    widths = _shrunk(table, width)
    rows = [[column.heading for column in table.columns], *table.cells()]
    return sum(max(len(textwrap.wrap(cell, room)) for cell, room in zip(row, widths, strict=True)) for row in rows)


# Parts ----------------------------------------------------------------------------------------------------------------------------


def _per_architecture(table: Table) -> bool:
    names = [row.get("architecture") for row in table.rows]
    return table.columns[0].key == "architecture" and len(set(names)) == len(names)


def _part(table: Table, columns: Iterable[Column]) -> Table:
    return dataclasses.replace(table, columns=tuple(columns))


def _without(table: Table, *beginnings: str) -> Table:
    return _part(table, (column for column in table.columns if not column.key.startswith(beginnings)))


def _only_filled(table: Table) -> Table:
    """Without the rows that say nothing in any architecture's column."""
    keys = [column.key for column in table.columns if column.key.startswith("~")]
    return dataclasses.replace(table, rows=tuple(row for row in table.rows if any(row.get(key) for key in keys)))


def _few_at_a_time(table: Table, width: int) -> _Parts:
    """As many columns as fit beside those that name the rows, then the next ones; an architecture's columns stay together where they fit,
    and what is said of a row beside its name is said once."""
    def fits(columns: Sequence[Column]) -> bool:
        return total(least(_part(table, columns))) <= width

    shared, groups = _groups(table)
    later = shared[:1] if any(map(_side, table.columns)) else shared
    parts: list[list[Column]] = []
    for own in (each for group in groups for each in ([group] if fits([*later, *group]) else [[column] for column in group])):
        if parts and fits([*parts[-1], *own]):
            parts[-1] += own
        else:
            parts.append([*(later if parts else shared), *own])
    return [_part(table, [column for column in table.columns if column in part]) for part in parts] or [table]


def _groups(table: Table) -> tuple[list[Column], list[list[Column]]]:
    """The columns that every part has, and those that stay together: an architecture's, or one and what is said of it."""
    sides: dict[str, list[Column]] = {}
    for column in table.columns:
        sides.setdefault(_side(column), []).append(column)
    shared = sides.pop("", [])
    if sides:
        return shared, list(sides.values())
    first = [table.columns[0], *itertools.takewhile(lambda column: column.text, table.columns[1:])]
    groups: list[list[Column]] = []
    for column in table.columns[len(first) :]:
        if groups and column.title in _OF_THE_ONE_BEFORE:
            groups[-1].append(column)
        else:
            groups.append([column])
    return first, groups


def _side(column: Column) -> str:
    """The architecture a column belongs to; '' for one that is nobody's."""
    return next((column.key.removeprefix(each) for each in _OF_A_SIDE if column.key.startswith(each)), "")
