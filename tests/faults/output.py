"""Faults of what is written: rows that are lost, numbers that are none, files of another run, cells that do not come from the records."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from humar_bench import cli
from humar_bench.judging import speeds
from humar_bench.records.record import RECORDS_NAME, Record, load
from humar_bench.records.writer import RecordWriter
from humar_bench.report import write_report
from humar_bench.running import worker
from tests.faults.fault import Fault
from tests.faults.harness import Patch, flags, measured
from tests.golden.records import made_up_run, params

VERIFY = "`verify` makes every cell again from the records"
Damage = Callable[[Path], None]


@functools.cache
def report(damage: Damage | None = None, patch: Patch | None = None, *command: str) -> list[str]:
    """Write a report (with `patch`), damage its folder, then ask the command line. What it says where it does not end with 0."""
    run = made_up_run("original", "efficient", "theirs")
    with TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        folder = Path(name)
        with RecordWriter(folder / RECORDS_NAME) as writer:
            for number, record in enumerate(run):
                writer.write(dataclasses.replace(record, time=f"2026-01-02T03:04:05.{number:06d}+00:00", id=""))
        with pytest.MonkeyPatch.context() as patches:
            if patch is not None:
                patch(patches)
            write_report(load(folder), folder)
        if damage is not None:
            damage(folder)
        code = cli.main([*(command or ("verify",)), str(folder)])
    return [f"exit code {code}: {out.getvalue()}{err.getvalue()}"] if code else []


def proved(
    name: str, seeded: str, effect: str, says: str, damage: Damage | None = None, *, patch: Patch | None = None, caught: str = VERIFY
) -> Fault:
    return Fault(name, "output", seeded, effect, caught, says, lambda: report(damage, patch), report)


def _changed(file: str, old: str, new: str) -> Damage:
    def change(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))

    return change


def _line_gone(folder: Path) -> None:
    lines = (folder / RECORDS_NAME).read_text().splitlines(keepends=True)
    (folder / RECORDS_NAME).write_text("".join(lines[1:]))


def _torn(folder: Path) -> None:
    path = folder / RECORDS_NAME
    path.write_bytes(path.read_bytes()[:-40])


def _doubled(folder: Path) -> None:
    path = folder / RECORDS_NAME
    path.write_text(path.read_text() + path.read_text().splitlines(keepends=True)[0])


def _nan(folder: Path) -> None:
    path = folder / RECORDS_NAME
    path.write_text(re.sub(r'"peak_bytes": \d+', '"peak_bytes": NaN', path.read_text(), count=1))


def _sealed_anew(folder: Path) -> None:
    """A total is changed by hand, the tables are made again, and the record's id is made to fit."""
    path = folder / RECORDS_NAME
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["measured"]["total"] -= 1_000_000
    path.write_text("")
    with RecordWriter(path) as writer:
        for values in lines:
            writer.write(Record(**{**values, "id": ""}))
    write_report(load(folder), folder)


def _rounded(patches: Any) -> None:
    """Ratios are taken from rounded milliseconds."""
    patches.setattr(speeds, "times", lambda ratio: f"{round(ratio):.2f}x")


def _lost(patches: Any) -> None:
    """A child forgets the architecture that ran out of memory."""
    answer = worker.answer

    def forgets(request: Any) -> Any:
        reply = answer(request)
        return {**reply, "results": {name: each for name, each in reply["results"].items() if each["status"] == "ok"}}

    patches.setattr(worker, "answer", forgets)


def _swapped(patches: Any) -> None:
    from humar_bench.report import files

    made = files.to_csv
    patches.setattr(files, "to_csv", lambda table: made(dataclasses.replace(table, rows=table.rows[:-1])))


def _other_workload() -> list[str]:
    other = params("efficient")
    return _compared(dataclasses.replace(other, workload={**other.workload, "batch": 7}, id=""))


def _compared(record: Any) -> list[str]:
    """A record of somewhere else in the file of a run: what `compare` of it with itself says."""
    with TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
        with RecordWriter(Path(name) / RECORDS_NAME) as writer:
            writer.write(params("original"), record)
        code = cli.main(["compare", name, name])
    return [f"exit code {code}: {err.getvalue()}"] if code else []


FAULTS = (
    Fault("row lost after out of memory", "output", "the child leaves out the architecture that failed", "a table of survivors",
          "every architecture that was asked for is a row", r"hungry failed: its process sent back no result",
          lambda: flags(measured(["plain", "hungry"], ["fps"], patch=_lost)),
          lambda: flags(measured(["plain", "half"], ["fps"], patch=_lost))),
    Fault("NaN outputs timed", "output", "a model answers with NaN", "a fast wrong answer", "outputs are checked before they are timed",
          r"not finite", lambda: flags(measured(["plain", "not_a_number"], ["fps"])), lambda: flags(measured(["plain", "half"], ["fps"]))),
    proved("NaN printed as a number", "a peak in the records is NaN", "`nan` in a table, or a winner by comparison with NaN",
           r"NaN, which is no number",
           _nan, caught="records with NaN are refused"),
    proved("Markdown differs from CSV", "a cell of the Markdown is changed", "any", r"report\.md, row \d+",
           _changed("report.md", "3.00x faster", "3.10x faster")),
    proved("CSV without its last row", "the CSV writer drops the last row", "the total, or an architecture", r"it is missing",
           patch=_swapped),
    proved("stale file merged", "the CSV of an earlier run is left in the folder", "two runs read as one",
           r"no record accounts for this file",
           lambda folder: (folder / "fps_old.csv").write_text("architecture,fps\noriginal,1\n")),
    Fault("stale record merged", "output", "a record of another workload is in the file", "a ratio of unlike work",
          "one table shows one workload and one set of arguments", r"exit code 2: .*mixes measurements with batch", _other_workload,
          lambda: _compared(params("efficient"))),
    proved("torn last line", "the writer was killed in the middle of a line", "one measurement", r"it was cut short", _torn),
    proved("record lost", "a line of the records is gone", "one measurement, in no table that is made again", r"params\.csv", _line_gone),
    proved("record doubled", "a line stands twice", "one process counts twice", r"a second time", _doubled),
    proved("raw value changed", "a time in the records is changed by hand", "any", r"was changed after it was measured",
           _changed(RECORDS_NAME, '"first_call_s": 1.8', '"first_call_s": 1.7')),
    proved("raw value changed and sealed", "a total is changed, its id and the tables are made anew", "any",
           r"contradicts itself: .*components add up to", _sealed_anew,
           caught="`verify` holds every record against itself (`contradictions.py`)"),
    proved("winner from rounded numbers", "the words of a comparison come from a rounded ratio", "2.00x for 1.80x", r"fps\.csv|report\.md",
           patch=_rounded),
)
