"""Timing records -> frames per second, latency and a verdict against the reference. No torch, no clock.

Processes are the replicates: the interval and the verdict come from `statistics.py`, one value a process, never from pooled times.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from humar_bench import statistics
from humar_bench.record import Record, Run
from humar_bench.table import Column, Table, times


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
    ratio: float | None = None  # reference time / this time: above 1 is faster
    ratio_low: float | None = None
    ratio_high: float | None = None
    verdict: str = ""
    why: str = ""  # of the verdict
    margin: float | None = None
    notes: tuple[str, ...] = ()
    reason: str = ""  # of a failure

    @property
    def failed(self) -> bool:
        return bool(self.reason)

    @property
    def words(self) -> str:
        """'3.10x faster', '1.20x slower', 'same within 2 %', 'undecided'; '' for the reference."""
        if self.ratio is None:
            return self.verdict
        if self.verdict == "faster":
            return f"{times(self.ratio)} faster"
        if self.verdict == "slower":
            return f"{times(1 / self.ratio)} slower"
        if self.verdict == "same" and self.margin is not None:
            return f"same within {100 * self.margin:g} %"
        way = f"{times(self.ratio)} faster" if self.ratio >= 1 else f"{times(1 / self.ratio)} slower"
        return f"{self.verdict} (medians: {way})"


def read_speeds(run: Run, reference: str) -> dict[str, Speed]:
    """Every architecture's times and verdict, in the order of the run's records."""
    samples = {name: _latest(run.select(architecture=name)) for name in run.architectures}
    speeds = {name: _describe(name, records) for name, records in samples.items()}
    judged = _judge({name: _arms(records) for name, records in samples.items()}, reference, _margin(run))
    return {name: dataclasses.replace(speed, **judged.get(name, {})) for name, speed in speeds.items()}


def _latest(records: Run) -> list[Record]:
    """The last record of each process: a measurement that was made again replaces the earlier one."""
    return [each for _, each in sorted({record.process: record for record in records}.items())]


Process = tuple[int, str]  # its number, and the child it was: rounds pair by index only within one child


def _arms(records: list[Record]) -> dict[Process, statistics.ProcessSample]:
    """Process -> what the statistics need of one architecture in it."""
    arms = {}
    for record in records:
        if record.ok and record.measured["wall_s"]:
            told = [each or {} for each in record.measured.get("round_telemetry") or []]
            arms[record.process, record.measured.get("child", "")] = statistics.ProcessSample(
                record.measured["wall_s"], [each.get("sm_clock_mhz") for each in told], [each.get("throttled") for each in told],
                record.measured.get("steady", True),
            )
    return arms


def _margin(run: Run) -> float:
    """The difference below which two speeds are called the same, by kind of device."""
    device = next((str(record.environment.get("device") or record.run.get("device")) for record in run), "cpu")
    return statistics.MARGINS.get(device.partition(":")[0], statistics.MARGINS["cpu"])


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
        preempted_share=sum(preempted) / len(preempted) if preempted else None,
        steady=all(one.get("steady", True) for one in done), reason=reason,
    )


def reason_of(record: Record) -> str:
    """Why a record failed: its kind where that is a word of its own, and its sentence."""
    reason = record.reason or "no reason was recorded."
    return reason if record.kind in ("", "error") or record.kind in reason else f"{record.kind}: {reason}"


def _judge(arms: Mapping[str, Mapping[Process, statistics.ProcessSample]], reference: str, margin: float) -> dict[str, dict[str, Any]]:
    """Ratio, interval and verdict of every architecture against the reference, from the processes both finished."""
    base = arms.get(reference) or {}
    rows: dict[str, statistics.Comparison] = {}
    for name, own in arms.items():
        both = sorted(base.keys() & own.keys())
        if name != reference and both:
            rows[name] = statistics.compare_processes([base[each] for each in both], [own[each] for each in both], margin=margin)
    judged = dict(zip(rows, statistics.judge_table(list(rows.values())), strict=True))
    return {
        name: {
            "ratio": row.ratio, "ratio_low": row.low, "ratio_high": row.high, "verdict": row.verdict, "why": row.reason,
            "margin": row.margin, "notes": row.notes,
        }
        for name, row in judged.items()
    }


def _pooled(done: list[Mapping[str, Any]], key: str) -> list[float]:
    return [value for one in done for value in one.get(key) or []]


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def fps_table(speeds: Mapping[str, Speed], reference: str) -> Table:
    """One row an architecture."""
    rows = []
    for name, speed in speeds.items():
        row = {**dataclasses.asdict(speed), "note": f"failed: {speed.reason}" if speed.failed else ""}
        if speed.ratio_low is not None and speed.ratio_high is not None:
            row["interval"] = f"{times(speed.ratio_low)} to {times(speed.ratio_high)}"
        rows.append({**row, "against": "" if name == reference else speed.words})

    def ms(key: str, title: str) -> Column:
        return Column(key, title, "ms", "less", 2, 1e-3)

    columns = [
        Column("architecture", text=True), Column("fps", "speed", "images/s", "more", 2), ms("median_s", "median"), ms("p90_s", "p90"),
        ms("min_s", "min"), ms("first_call_s", "first call"), ms("cpu_median_s", "CPU time"), ms("device_median_s", "device time"),
        Column("preempted_share", "preempted", "%", "", 1, 0.01), Column("processes"), Column("rounds"),
        Column("against", f"against {reference}", text=True), Column("interval", "interval of the ratio", text=True),
        Column("note", text=True),
    ]
    used = tuple(column for column in columns if any(row.get(column.key) not in (None, "") for row in rows))
    return Table("fps", "Speed", used, tuple(rows), _fps_feet(speeds, reference))


def _fps_feet(speeds: Mapping[str, Speed], reference: str) -> tuple[str, ...]:
    feet = ["Speed is the batch divided by the median wall time of one forward; the first call is apart."]
    judged = [speed for name, speed in speeds.items() if name != reference and speed.ratio is not None]
    if judged:
        margin = judged[0].margin
        feet.append(f"The interval is over processes; a difference below {100 * margin:g} % is called the same.")
    feet += [f"{speed.architecture}: {speed.verdict}: {speed.why}" for speed in judged if speed.why]
    feet += [f"{speed.architecture}: {note}" for speed in judged for note in speed.notes]
    refused = statistics.percentile([], 0.9).needed
    if few := [speed for speed in speeds.values() if speed.rounds and speed.p90_s is None]:
        feet.append(f"p90 needs {refused} times; {', '.join(f'{speed.architecture} has {speed.rounds}' for speed in few)}.")
    unsteady = [speed.architecture for speed in speeds.values() if speed.steady is False]
    if unsteady:
        feet.append(f"Warm-up never became steady for {', '.join(unsteady)}.")
    return tuple(feet)


def fps_data(speeds: Mapping[str, Speed], reference: str) -> Table:
    """One row an architecture, seconds and shares unscaled; ratios are reference / architecture."""
    rows = [{**dataclasses.asdict(speed), "status": "failed" if speed.failed else "ok"} for speed in speeds.values()]
    keys = (
        "architecture", "status", "fps", "median_s", "p90_s", "min_s", "first_call_s", "cpu_median_s", "device_median_s", "processes",
        "rounds", "preempted_share", "steady", "ratio", "ratio_low", "ratio_high", "verdict", "margin", "reason",
    )
    return Table("fps", "fps", tuple(Column(key) for key in keys), tuple(rows))
