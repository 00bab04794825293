"""Writers for a study: anything with tables for people, data tables for programs, a document for JSON, and what it all holds for.

Its folder holds records.jsonl, NAME.md, one CSV a data table, and study.json: which records the tables are made from and what else they
need, so that `verify` can make them again.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from humar_bench.errors import InvalidMeasurement, UsageError
from humar_bench.reading import parse_json, read_bytes
from humar_bench.records.record import Run, json_text, plain
from humar_bench.report.data import to_csv
from humar_bench.report.files import write_text
from humar_bench.report.markdown import conditions_to_markdown, table_to_markdown
from humar_bench.report.plot import Plot, block_plot, can_plot, write_plot
from humar_bench.report.terminal import print_line, print_table
from humar_bench.table import Table

STUDY_NAME = "study.json"
FORMAT = 1


class Study(Protocol):
    """What `scaling`, `ablate` and `claims` find. `settings` are plain values: with the records of `run`, all that a maker needs."""

    name: str
    run: Run
    settings: Mapping[str, Any]
    tables: tuple[Table, ...]
    data: Mapping[str, Table]
    document: Mapping[str, Any]
    conditions: tuple[str, ...]
    failures: tuple[str, ...]


def study_csv(study: Study) -> str:
    """All data tables, an empty line between two."""
    return "\n".join(to_csv(table) for table in study.data.values())


def study_json(study: Study) -> str:
    return json_text(plain(study.document), indent=2) + "\n"


def study_markdown(study: Study) -> str:
    return "\n".join([*(table_to_markdown(table) for table in study.tables), conditions_to_markdown(study.conditions)])


def print_study(study: Study, console: Console) -> None:
    """Tables, curves where there are any, conditions."""
    for table in study.tables:
        print_table(table, console)
    plot = getattr(study, "plot", None)
    if isinstance(plot, Plot) and plot.panels:
        console.print(block_plot(plot))
    for line in study.conditions:
        print_line(line, console, "dim")


def study_texts(study: Study) -> dict[str, str]:
    """File name -> content: NAME.md and one CSV a data table, the same whenever they are made."""
    texts = {f"{study.name}.md": f"# humar-bench {study.name}\n\n{study_markdown(study)}"}
    return texts | {f"{table}.csv": to_csv(data) for table, data in study.data.items()}


def write_study(study: Study, directory: str | os.PathLike) -> list[Path]:
    """Write `study_texts`, study.json, and the curves as PNG and SVG where there are any and matplotlib is installed. Returns the paths."""
    folder = Path(directory)
    texts = {**study_texts(study), STUDY_NAME: _made_from(study)}
    for file, text in texts.items():
        write_text(folder / file, text)
    plot = getattr(study, "plot", None)
    drawn = [f"{study.name}.png", f"{study.name}.svg"] if isinstance(plot, Plot) and plot.panels and can_plot() else []
    for file in drawn:
        write_plot(plot, str(folder / file))
    return [folder / file for file in (*texts, *drawn)]


def _made_from(study: Study) -> str:
    """What study.json holds: format, study, settings, the ids of its records in their order, notes on them, and a stamp over all that."""
    ids = [record.id for record in study.run]
    document = plain({"format": FORMAT, "study": study.name, "settings": study.settings, "notes": study.run.notes, "records": ids})
    return json_text({**document, "sha256": _stamp(document)}, indent=1) + "\n"


def _stamp(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def read_study(directory: str | os.PathLike, run: Run, makers: Mapping[str, str]) -> Study:
    """The study that a folder's study.json and records say; `makers` names the function that makes each kind of study again.

    Raises UsageError when study.json cannot be read or is of another version, InvalidMeasurement when it was changed or names a record
    that is not there.
    """
    path = Path(directory) / STUDY_NAME
    try:
        document = parse_json(read_bytes(path))
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{STUDY_NAME} cannot be read: {said}; put the file back or make the study again.") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT or document.get("study") not in makers:
        raise UsageError(f"{STUDY_NAME} is of no study that this version of humar-bench makes; make the study again.")
    if document.pop("sha256", None) != _stamp(document):
        raise InvalidMeasurement(f"{STUDY_NAME} was changed after it was written: its SHA-256 is not the one it carries.")
    known = {record.id: record for record in run}
    if missing := [each for each in document["records"] if each not in known]:
        raise InvalidMeasurement(f"record {missing[0]}, which {STUDY_NAME} names, is missing.")
    module, _, maker = makers[document["study"]].partition(":")
    own = Run(tuple(known[each] for each in document["records"]), tuple(document["notes"]))
    return getattr(importlib.import_module(module), maker)(own, document["settings"])
