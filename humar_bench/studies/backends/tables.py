"""Records of many backends and number types -> one row a cell: a figure or a reason. No torch, no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any, ClassVar

import numpy as np
from scipy import special

from humar_bench.judging.speeds import reason_of
from humar_bench.judging.statistics import CONFIDENCE
from humar_bench.judging.unpaired import unpaired
from humar_bench.records.record import Record, Run
from humar_bench.report.comparison import asked_lines, environment_text, in_items, made_by
from humar_bench.report.work_text import work_text
from humar_bench.table import MIB, Column, Table, percent

FORMAT = 1  # of the JSON document. 1: rows, conditions, failures
NOT_REACHED = "not measured: the budget was used up; a longer --budget goes on, with --resume from here."
BASE = ("eager", "float32")  # what the speed-up of an architecture's other cells is over
_TEXTS = (
    "Memory is the peak of the process, while it runs one forward, above what was there before its model was built: on a CPU of its "
    "resident set, on CUDA of torch's allocator, which does not see another runtime's.",
    "Preparation is what is done once, exporting and compiling, at its longest; the first call comes after it.",
    "The largest error is in shares of the root mean square of the part of the outputs it is in.",
)


@dataclass(frozen=True)
class Matrix:
    """The records of one matrix, and what follows from them. `settings`: architectures, backends, dtypes, and reasons against cells."""

    run: Run
    settings: Mapping[str, Any]
    name: ClassVar[str] = "backends"

    @cached_property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """One row a cell, values unscaled, an architecture's together."""
        made: dict[tuple[str, str, str], list[Record]] = {}
        for record in self.run:
            made.setdefault((record.architecture, record.asked_run("backend"), record.asked_run("dtype")), []).append(record)
        rows = []
        for architecture in self.settings["architectures"]:
            base = _processes(made.get((architecture, *BASE), []))
            for backend in self.settings["backends"]:
                for dtype in self.settings["dtypes"]:
                    records = made.get((architecture, backend, dtype), [])
                    reason = self.settings["reasons"].get(f"{backend} {dtype}", "")
                    row = {"architecture": architecture, "backend": backend, "dtype": dtype}
                    rows.append(row | _row(records, base if (backend, dtype) != BASE else {}, reason))
        return tuple(rows)

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence for each cell that was tried and failed."""
        return tuple(dict.fromkeys(
            f"{each.architecture} through {each.asked_run('backend')} in {each.asked_run('dtype')} failed: {reason_of(each)}"
            for each in self.run if not each.ok
        ))

    @property
    def conditions(self) -> tuple[str, ...]:
        """What the numbers hold for."""
        if not len(self.run):
            return ("Nothing was measured.",)
        first = self.run[0]
        said = [work_text(first.workload), *asked_lines(first.workload, first.asked)]
        # without what is a column of the table
        said += dict.fromkeys(environment_text(replace(each, run={}, id="")) for each in self.run if each.environment)
        return (*said, *made_by(self.run), *self.run.notes)

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        made = [table for table in (matrix_table(self), missing_table(self)) if table is not None]
        return tuple(in_items(made, self.run[0].workload if len(self.run) else {}))

    @cached_property
    def data(self) -> dict[str, Table]:
        return {"backends": matrix_data(self)}

    @property
    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "format": FORMAT, "rows": [dict(row) for row in self.rows], "environment": self.run[0].environment if len(self.run) else {},
            "conditions": list(self.conditions), "failures": list(self.failures),
        }


def restore(run: Run, settings: Mapping[str, Any]) -> Matrix:
    """The matrix that a folder holds."""
    return Matrix(run, settings)


def _processes(records: list[Record]) -> dict[int, Mapping[str, Any]]:
    """What each finished process measured; one that was made again replaces the earlier."""
    return {record.process: record.measured for record in records if record.ok}


def _row(records: list[Record], base: Mapping[int, Mapping[str, Any]], reason: str) -> dict[str, Any]:
    done = _processes(records)
    failed = next((record for record in reversed(records) if not record.ok and record.process not in done), None)
    if failed is not None:
        reason = f"failed: {reason_of(failed)}"
    if not done:
        return {"status": "failed" if failed else "no figure", "reason": reason or NOT_REACHED}
    times_s = [median(one["wall_s"]) for one in done.values()]
    batch = next(iter(done.values()))["batch"]
    low_s, high_s = _interval([math.log(each) for each in times_s])
    row: dict[str, Any] = {
        "status": "failed" if failed else "ok", "processes": len(done), "rounds": sum(len(one["wall_s"]) for one in done.values()),
        "median_s": _middle(times_s), "fps": batch / _middle(times_s),
        "fps_low": None if high_s is None else batch / high_s, "fps_high": None if low_s is None else batch / low_s,
        "cpu_median_s": _middle([median(one["cpu_s"]) for one in done.values()]),
        "device_median_s": _middle([median(one["device_s"]) for one in done.values() if one.get("device_s")]),
        "first_call_s": _middle([one["first_call_s"] for one in done.values()]), "reason": reason, **_speed_up(times_s, base),
    }
    told = [one.get("backend") or {} for one in done.values()]
    row |= {
        "prepare_s": max((each["prepare_s"] for each in told if "prepare_s" in each), default=None),
        "file_bytes": next((each["file_bytes"] for each in told if each.get("file_bytes")), None),
        "peak_bytes": max((peak for one in done.values() if (peak := (one.get("footprint") or {}).get("peak_bytes")) is not None),
                          default=None),
    }
    checked = [one["agreement"] for one in done.values() if (one.get("agreement") or {}).get("checked")]
    if checked:
        worst = max(checked, key=lambda each: each["max_error"])
        row |= {"max_error": worst["max_error"], "tolerance": worst["tolerance"],
                "common_share": min((each["common_share"] for each in checked if "common_share" in each), default=None)}
    return row | {"notes": _notes(row, done, told, reason)}


def _notes(row: Mapping[str, Any], done: Mapping[int, Mapping[str, Any]], told: list[Mapping[str, Any]], reason: str) -> list[str]:
    """What a reader has to know beside the figures, in short sentences."""
    first, one = told[0], next(iter(done.values()))
    said = [reason] if reason else []
    if one.get("emulated"):
        said.append(f"Emulated: {one['emulated']}.")
    if "max_error" not in row:
        said.append("Outputs were not checked.")
    elif row["common_share"] is not None and row["common_share"] < 1:
        said.append(f"{percent(row['common_share'])} of the proposals in common with float32.")
    if any((each.get("agreement") or {}).get("border_cells") for each in done.values()):
        said.append("Border cells on the proposals' threshold fall the other way; nothing else differs.")
    if first.get("graph_breaks"):
        said.append(f"{first['graph_breaks']} graph breaks.")
    if any(each.get("cache_hits") and not each.get("cache_misses") for each in told):
        said.append("Some processes found compiled code in a cache.")
    if "int8_by" in first:
        said.append(f"int8 by {first['int8_by']}.")
    if row["processes"] == 1:
        said.append("One process: no interval.")
    return said


def _middle(values: list[float]) -> float | None:
    """The geometric mean over processes, the middle that their interval is around."""
    return math.exp(float(np.mean(np.log(values)))) if values else None


def _interval(logs: list[float]) -> tuple[float | None, float | None]:
    """Student's t over processes, as numbers; none where there is one process."""
    if len(logs) < 2:
        return None, None
    reach = float(special.stdtrit(len(logs) - 1, 0.5 + CONFIDENCE / 2) * np.std(logs, ddof=1) / math.sqrt(len(logs)))
    return math.exp(float(np.mean(logs)) - reach), math.exp(float(np.mean(logs)) + reach)


def _speed_up(times_s: list[float], base: Mapping[int, Mapping[str, Any]]) -> dict[str, float | None]:
    """Eager float32's time over this one's, by wall time; Welch's interval over processes, which share nothing."""
    if not base:
        return {"speed_up": None, "speed_up_low": None, "speed_up_high": None}
    shift = unpaired([math.log(median(one["wall_s"])) for one in base.values()], [math.log(each) for each in times_s])
    low, high = (-each for each in reversed(shift.interval()))
    known = shift.error is not None
    return {
        "speed_up": math.exp(-shift.mean), "speed_up_low": math.exp(low) if known else None,
        "speed_up_high": math.exp(high) if known else None,
    }


def matrix_data(matrix: Matrix) -> Table:
    keys = (
        "architecture", "backend", "dtype", "status", "fps", "fps_low", "fps_high", "median_s", "cpu_median_s", "device_median_s",
        "speed_up", "speed_up_low", "speed_up_high", "peak_bytes", "prepare_s", "first_call_s", "file_bytes", "max_error", "tolerance",
        "common_share", "processes", "rounds", "reason",
    )
    return Table("backends", "backends", tuple(Column(key) for key in keys), matrix.rows)


def matrix_table(matrix: Matrix) -> Table:
    """For people: the cells with a figure; what has to be known of some of them stands below."""
    rows, notes = [], {}
    for row in matrix.rows:
        if row.get("fps") is None:
            continue
        spans = {f"{key}_span": _span(row, key) for key in ("fps", "speed_up")}
        rows.append({**row, **spans, "error": f"{row['max_error']:.1g}" if "max_error" in row else ""})
        for note in row["notes"]:
            notes.setdefault(note, []).append(f"{row['architecture']} {row['backend']} {row['dtype']}")
    columns = (
        Column("architecture", text=True), Column("backend", text=True), Column("dtype", text=True),
        Column("fps", "speed", "images/s", "more", 2), Column("fps_span", "95 % interval", text=True),
        Column("median_s", "latency", "ms", "less", 1, 1e-3), Column("speed_up", "speed-up", "x", "more", 2),
        Column("speed_up_span", "95 % interval", text=True), Column("peak_bytes", "memory", "MiB", "less", 0, MIB),
        Column("prepare_s", "preparation", "s", "less", 1), Column("first_call_s", "first call", "ms", "less", 1, 1e-3),
        Column("file_bytes", "file", "MiB", "less", 1, MIB), Column("error", "largest error", text=True), Column("processes"),
    )
    used = tuple(each for each in columns if any(row.get(each.key) not in (None, "") for row in rows))
    feet = [
        "Speed-up is over eager float32 of the same architecture, by wall time; intervals are over processes, each of one cell alone.",
        *_TEXTS, *(f"{', '.join(cells)}: {note}" for note, cells in notes.items()),
    ]
    return Table("backends", "Every backend and number type", used or columns[:3], tuple(rows), tuple(feet))


def missing_table(matrix: Matrix) -> Table | None:
    """Why the other cells have no figure, cells of one reason together; None where every cell has one."""
    lacking: dict[tuple[str, str, str], list[str]] = {}
    for row in matrix.rows:
        if row.get("fps") is None:
            lacking.setdefault((row["backend"], row["reason"], row["dtype"]), []).append(row["architecture"])
    found: dict[tuple[str, str, str], list[str]] = {}
    for (backend, reason, dtype), names in lacking.items():  # only number types that the same architectures lack stand in one row
        found.setdefault((backend, reason, ", ".join(names)), []).append(dtype)
    rows = tuple(
        {"backend": backend, "reason": reason, "architecture": names, "dtype": ", ".join(dtypes)}
        for (backend, reason, names), dtypes in found.items()
    )
    columns = tuple(Column(key, text=True) for key in ("backend", "dtype", "architecture", "reason"))
    return Table("missing", "Cells without a figure", columns, rows) if rows else None


def _span(row: Mapping[str, Any], key: str) -> str:
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    return "" if low is None or high is None else f"{low:.2f} to {high:.2f}"
