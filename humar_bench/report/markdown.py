"""Tables as Markdown: what `report.md` and the README hold."""

from __future__ import annotations

import re
from collections.abc import Iterable

from humar_bench.report.comparison import Comparison
from humar_bench.table import Table, visible


def to_markdown(comparison: Comparison) -> str:
    """All tables of a comparison, then what they hold for."""
    return "\n".join([*(table_to_markdown(table) for table in comparison.tables), conditions_to_markdown(comparison.conditions)])


def conditions_to_markdown(conditions: Iterable[str]) -> str:
    """What tables hold for, one item a line."""
    lines = "\n".join(f"- {escape(line)}" for line in conditions)
    return f"## What this holds for\n\n{lines}\n"


def table_to_markdown(table: Table, *, heading: bool = True) -> str:
    head = [escape(column.heading) for column in table.columns]
    rule = ["---" if column.text else "---:" for column in table.columns]
    lines = [_line(head), _line(rule), *(_line([escape(cell) for cell in row]) for row in table.cells())]
    text = "\n".join(lines) + "\n"
    if heading:
        text = f"## {escape(table.title)}\n\n{text}"
    if table.notes:
        text += "\n" + "\n".join(f"- {escape(note)}" for note in table.notes) + "\n"
    return text


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


_ESCAPES = (  # in this order
    (r"[\\|*$]", r"\\\g<0>"), (r"&(?=#?\w+;)", "&amp;"), (r"<", "&lt;"),
    (r"!\[", r"\!\["), (r"\](\s*)([(\[:])", r"\]\1\\\2"),  # pictures; links and what they could refer to
    (r"://", "&#58;//"), (r"\bwww\.", "www&#46;"), (r"(?<=\S)@(?=\S)", "&#64;"),  # what GitHub makes a link of by itself
)


def escape(text: str) -> str:
    """One line that every Markdown reader shows as it is: no cell border, tag, link or picture, whatever stands in a name."""
    text = " ".join(visible(text).split())
    for pattern, instead in _ESCAPES:
        text = re.sub(pattern, instead, text)
    return text
