"""Tables as Markdown: what `report.md` and the README hold."""

from __future__ import annotations

from humar_bench.report.comparison import Comparison
from humar_bench.table import Table


def to_markdown(comparison: Comparison) -> str:
    """All tables of a comparison, then what they hold for."""
    parts = [table_to_markdown(table) for table in comparison.tables]
    conditions = "\n".join(f"- {_escape(line)}" for line in comparison.conditions)
    return "\n".join([*parts, f"## What this holds for\n\n{conditions}\n"])


def table_to_markdown(table: Table, *, heading: bool = True) -> str:
    head = [_escape(column.heading) for column in table.columns]
    rule = ["---" if column.text else "---:" for column in table.columns]
    lines = [_line(head), _line(rule), *(_line([_escape(cell) for cell in row]) for row in table.cells())]
    text = "\n".join(lines) + "\n"
    if heading:
        text = f"## {_escape(table.title)}\n\n{text}"
    if table.notes:
        text += "\n" + "\n".join(f"- {_escape(note)}" for note in table.notes) + "\n"
    return text


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    """One line that no Markdown reader takes for a cell border or a tag."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
