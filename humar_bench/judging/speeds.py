"""Timing records -> frames per second, latency and a verdict against the reference. No torch, no clock.

Processes are the replicates: intervals and verdicts come from `judging.py`, one value a process, never from pooled times.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from humar_bench.judging import statistics
from humar_bench.judging.energies import Drawn, read_energies
from humar_bench.judging.oddities import oddities
from humar_bench.judging.verdicts import Judged, Look, Row, judge
from humar_bench.records.record import Record, Run
from humar_bench.table import times

LAUNCH_BOUND = 1.1  # wall time / device time: above it the host, which launches the work, sets the pace


@dataclass(frozen=True)
class Speed:
    """One architecture's times over all its processes; seconds per forward of the whole batch. None where there is nothing to say."""

    architecture: str
    processes: int | None = None
    rounds: int | None = None
    fps: float | None = None
    median_s: float | None = None
    p90_s: float | None = None
    min_s: float | None = None
    first_call_s: float | None = None
    cpu_median_s: float | None = None
    device_median_s: float | None = None
    preempted_share: float | None = None
    steady: bool | None = None
    ratio: float | None = None  # reference time / this time by `metric`, which decides: above 1 is faster
    ratio_low: float | None = None
    ratio_high: float | None = None
    metric: str = ""  # CPU time, device time or wall time
    wall_ratio: float | None = None  # what a user experiences
    wall_ratio_low: float | None = None
    wall_ratio_high: float | None = None
    clean_ratio: float | None = None  # by wall time over the rounds in which nothing was preempted; None below the quorum
    clean_ratio_low: float | None = None
    clean_ratio_high: float | None = None
    clean_rounds: int | None = None
    wall_per_device: float | None = None
    gate_open_share: float | None = None  # of the rounds with device time, those into which launch cost may have entered
    max_error: float | None = None  # against a float32 eager forward, in shares of the root mean square of the part it is in
    tolerance: float | None = None
    same_selection: bool | None = None
    unchecked: str = ""  # why outputs were not held against a float32 forward
    against: str = ""  # what outputs were held against where there is no such forward
    number_types: Mapping[str, int] = field(default_factory=dict)  # elements by number type as built, where not all are float32
    varied: str = ""  # time on one input against time on new ones: agrees, differs, undecided or skipped
    varied_ratio: float | None = None
    verdict: str = ""
    why: str = ""  # of the verdict
    margin: float | None = None
    notes: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()  # about its raw times
    reason: str = ""  # of a failure
    backend: str = "eager"
    prepare_s: float | None = None  # of a backend, the longest of its processes; a cache may make the others short
    emulated: str = ""  # what the CPU lacks for the number type
    border_cells: str = ""  # which cells on the threshold of the proposals' validity another runtime lets in

    @property
    def failed(self) -> bool:
        return bool(self.reason)

    @property
    def words(self) -> str:
        """'3.10x faster', '1.20x slower', 'same within 2 %', 'undecided'; '' for the reference. The number is by wall time, what a user
        experiences, where that points the way of the verdict."""
        if self.ratio is None:
            return self.verdict
        if self.verdict == "same" and self.margin is not None:
            return f"same within {100 * self.margin:g} %"
        wall = self.ratio if self.wall_ratio is None else self.wall_ratio
        if self.verdict in ("faster", "slower"):
            if (wall > 1) == (self.verdict == "faster"):
                return _way(wall)
            if (self.ratio > 1) == (self.verdict == "faster"):
                return f"{_way(self.ratio)} by {self.metric}"
            return self.verdict
        return f"{self.verdict} (medians: {_way(wall)})"


@dataclass(frozen=True)
class Speeds(Mapping):
    """Every architecture's Speed by its name, and what holds for all of them."""

    rows: Mapping[str, Speed]
    reference: str = ""
    look: Look | None = None
    control: Row | None = None
    control_of: str = ""
    control_note: str = ""
    energies: Mapping[str, Drawn] = field(default_factory=dict)  # of the architectures whose energy was looked at
    certificates: tuple[Mapping[str, Any], ...] = ()  # the different citations (calibrate.citation) of its records; {} where one has none

    def __getitem__(self, name: str) -> Speed:
        return self.rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def read_speeds(run: Run, reference: str, order: Sequence[str] = ()) -> Speeds:
    """Every architecture's times and verdict, in the order given, else that of the run's records."""
    judged = judge(run, reference)
    speeds = {
        name: dataclasses.replace(_describe(name, _latest(run.select(architecture=name))), **_said(judged, name))
        for name in order or run.architectures if name in run.architectures
    }
    return Speeds(
        speeds, reference, judged.look, judged.control, judged.control_of, judged.control_note, read_energies(run, reference),
        _certificates(run),
    )


def _certificates(run: Run) -> tuple[Mapping[str, Any], ...]:
    each = [record.environment.get("certificate") or {} for record in run if record.ok]
    return tuple({one.get("cited", ""): one for one in each}.values())


def _way(ratio: float) -> str:
    return f"{times(ratio)} faster" if ratio >= 1 else f"{times(1 / ratio)} slower"


def _latest(records: Run) -> list[Record]:
    """The last record of each process: a measurement that was made again replaces the earlier one."""
    return [each for _, each in sorted({record.process: record for record in records}.items())]


def _describe(name: str, records: list[Record]) -> Speed:
    done = [record.measured for record in records if record.ok and record.measured["wall_s"]]
    reasons = list(dict.fromkeys(reason_of(record) for record in records if not record.ok))
    reason = "; ".join(reasons)
    if reasons and done:
        reason = f"{len(records) - len(done)} of {len(records)} processes: {reason}"
    if not done:
        return Speed(name, reason=reason or "no time was recorded.")
    wall, cpu, device = (_pooled(done, key) for key in ("wall_s", "cpu_s", "device_s"))
    preempted = [bool(each) for one in done for each in one.get("preempted") or []]
    return Speed(
        name, processes=len(done), rounds=len(wall), fps=done[0]["batch"] / float(np.median(wall)), median_s=float(np.median(wall)),
        p90_s=statistics.percentile(wall, 0.9).value, min_s=min(wall),
        first_call_s=_median([one["first_call_s"] for one in done if one.get("first_call_s") is not None]),
        cpu_median_s=_median(cpu), device_median_s=_median(device),
        preempted_share=_share(preempted),
        steady=all(one.get("steady", True) for one in done), reason=reason,
        wall_per_device=float(np.median(wall) / np.median(device)) if device else None,
        gate_open_share=_share([not held for held in _pooled(done, "gate_held")]), **_agreement(done),
        odd=oddities(done), number_types={} if done[0].get("converted_to") else done[0].get("as_built") or {}, **_ran_by(done),
    )


def _ran_by(done: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The backend, and what it took to prepare it; nothing where the model was called as it is."""
    told = [one.get("backend") or {} for one in done]
    prepared = [each["prepare_s"] for each in told if each.get("name", "eager") != "eager"]
    return {
        "backend": told[0].get("name", "eager"), "prepare_s": max(prepared, default=None), "emulated": done[0].get("emulated") or "",
        "border_cells": next((found for one in done if (found := (one.get("agreement") or {}).get("border_cells"))), ""),
    }


def reason_of(record: Record) -> str:
    """Why a record failed: its kind where that is a word of its own, and its sentence."""
    reason = record.reason or "no reason was recorded."
    return reason if record.kind in ("", "error") or record.kind in reason else f"{record.kind}: {reason}"


def _said(judged: Judged, name: str) -> dict[str, Any]:
    """Ratios, intervals and verdict of one architecture, as fields of Speed."""
    varied = judged.varied.get(name)
    said: dict[str, Any] = {} if varied is None else {"varied": varied.verdict, "varied_ratio": varied.ratio}
    row = judged.rows.get(name)
    if row is None:
        return said
    for prefix, found in (("ratio", row.detected), ("wall_ratio", row.wall), ("clean_ratio", row.clean)):
        if found is not None:
            said |= {prefix: found.ratio, f"{prefix}_low": found.low, f"{prefix}_high": found.high}
    detected = row.detected
    return said | {
        "metric": row.metric, "clean_rounds": row.clean_rounds, "verdict": detected.verdict, "why": detected.reason,
        "margin": detected.margin, "notes": detected.notes,
    }


def _agreement(done: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The worst of what the processes found when they held outputs against a float32 forward."""
    found = [one["agreement"] for one in done if one.get("agreement", {}).get("checked")]
    if not found:
        return {"unchecked": next((one["agreement"].get("skipped", "") for one in done if one.get("agreement")), "not recorded")}
    worst = max(found, key=lambda each: each["max_error"])
    selections = [each["same_selection"] for each in found if "same_selection" in each]
    return {
        "against": next((each["against"] for each in found if each.get("against")), ""),
        "max_error": worst["max_error"], "tolerance": worst["tolerance"],
        "same_selection": all(selections) if selections else None,
    }


def _pooled(done: list[Mapping[str, Any]], key: str) -> list[float]:
    return [value for one in done for value in one.get(key) or []]


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def _share(marks: list[bool]) -> float | None:
    return sum(marks) / len(marks) if marks else None
