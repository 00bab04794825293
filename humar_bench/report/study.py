"""Writers for a study: anything with tables for people, data tables for programs, a document for JSON, and what it all holds for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.text import Text

from humar_bench.record import plain
from humar_bench.report.data import to_csv
from humar_bench.report.files import write_text
from humar_bench.report.markdown import table_to_markdown
from humar_bench.report.plot import Plot, block_plot, can_plot, write_plot
from humar_bench.report.terminal import print_table
from humar_bench.table import Table


class Study(Protocol):
    """What `scaling` and `ablate` return."""

    tables: tuple[Table, ...]
    data: Mapping[str, Table]
    document: Mapping[str, Any]
    conditions: tuple[str, ...]
    failures: tuple[str, ...]


def study_csv(study: Study) -> str:
    """All data tables, an empty line between two."""
    return "\n".join(to_csv(table) for table in study.data.values())


def study_json(study: Study) -> str:
    return json.dumps(plain(study.document), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def study_markdown(study: Study) -> str:
    lines = "\n".join(f"- {line.replace('|', '/').replace('<', '&lt;').replace('*', chr(92) + '*')}" for line in study.conditions)
    return "\n".join([*(table_to_markdown(table) for table in study.tables), f"## What this holds for\n\n{lines}\n"])


def print_study(study: Study, console: Console) -> None:
    """Tables, curves where there are any, conditions."""
    for table in study.tables:
        print_table(table, console)
    plot = getattr(study, "plot", None)
    if isinstance(plot, Plot) and plot.panels:
        console.print(block_plot(plot))
    for line in study.conditions:
        console.print(Text(line), style="dim")


def write_study(study: Study, directory: str | os.PathLike, name: str) -> list[Path]:
    """NAME.md, one CSV a data table, and the curves as PNG and SVG where there are any and matplotlib is installed. Returns the paths."""
    folder = Path(directory)
    texts = {f"{name}.md": f"# humar-bench {name}\n\n{study_markdown(study)}"}
    texts |= {f"{table}.csv": to_csv(data) for table, data in study.data.items()}
    for file, text in texts.items():
        write_text(folder / file, text)
    plot = getattr(study, "plot", None)
    drawn = [f"{name}.png", f"{name}.svg"] if isinstance(plot, Plot) and plot.panels and can_plot() else []
    for file in drawn:
        write_plot(plot, str(folder / file))
    return [folder / file for file in (*texts, *drawn)]
