"""CSV and JSON: every number as it was measured, for programs."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from typing import Any

from humar_bench.records.record import json_text, plain
from humar_bench.report.comparison import Comparison
from humar_bench.table import Table, visible

# History of the JSON document, newest first. 1: measure -> architecture -> status, reason and what its record measured.
FORMAT = 1


def to_csv(table: Table) -> str:
    """One header row, then the rows; integers and floats in full, nothing to say is an empty cell, text is `harmless`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([harmless(column.key) for column in table.columns])
    for row in table.rows:
        writer.writerow([_csv_cell(row.get(column.key)) for column in table.columns])
    return text.getvalue()


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, (int, float)) else harmless(str(value))


def harmless(text: str) -> str:
    """A text cell that no spreadsheet runs: `visible`, and with an apostrophe before what would begin a formula, also after a semicolon,
    which separates cells where a comma is the decimal mark (OWASP, "CSV Injection"; the wide signs are those of East Asian keyboards)."""
    return re.sub(r"(^|;)(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])", r"\1'", visible(text))


def to_json(comparison: Comparison) -> str:
    """The comparison as one JSON object: measure -> architecture -> numbers, then the conditions they hold for."""
    first = comparison.run[0]
    document: dict[str, Any] = {"format": FORMAT, "reference": comparison.reference}
    for measure in comparison.measures:
        document[measure] = {side: _side(comparison, measure, side) for side in comparison.sides[measure]}
    document |= {
        "asked": first.asked,
        "workload": first.workload,
        "run": first.run,
        "built": {side: _built(comparison, side) for side in comparison.architectures},
        "environment": first.environment,
        "commands": list(dict.fromkeys(record.command for record in comparison.run if record.command)),
        "failures": list(comparison.failures),
        "notes": list(comparison.run.notes),
    }
    return json_text(plain(document), indent=2) + "\n"


def _side(comparison: Comparison, measure: str, side: str) -> dict[str, Any]:
    reason = comparison.reasons[measure].get(side, "")
    told = {"status": "failed" if reason else "ok", "reason": reason}
    if measure == "fps":
        processes = [record.measured for record in comparison.run.select(measure=measure, architecture=side) if record.ok]
        return {**dataclasses.asdict(comparison.speeds[side]), **told, "records": processes}
    return {**told, **(comparison.sides[measure][side] or {})}


def _built(comparison: Comparison, side: str) -> dict[str, Any]:
    return next((record.built for record in comparison.run.select(architecture=side) if record.built), {})
