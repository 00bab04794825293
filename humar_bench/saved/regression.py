"""Two saved runs -> what got worse, from their raw values, and whether a limit is exceeded. No torch, no printing.

Parameters, FLOPs and bytes are exact. Speed is judged over processes (`unpaired.py`): as the change of the ratio against the reference
where both runs measured the same reference, as a change of absolute times where they did not. The reference is then the yardstick: its
own times are shown and not held against a limit, since a slower machine and a slower reference look the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from humar_bench.errors import EXIT_DONE, EXIT_INVALID, EXIT_REGRESSION, EXIT_UNDECIDED, UsageError
from humar_bench.judging.faults import mixture_fault
from humar_bench.judging.speeds import read_speeds, reason_of
from humar_bench.judging.statistics import FASTER, INVALID, MARGINS, SAME, SLOWER, UNDECIDED, ProcessSample, clock_fault
from humar_bench.judging.unpaired import EXCEEDED, KEPT, Shift, paired, unpaired
from humar_bench.records.audit import impossible, readable
from humar_bench.records.record import FACTS, MEASURES, Record, Run
from humar_bench.report.comparison import compare
from humar_bench.saved.limits import DEFAULT_LIMITS, LIMIT_OF
from humar_bench.table import MIB, Column, Table, fewer, less, percent, times

# measure -> (name, key in measured, unit, scale, digits, words)
EXACT = {
    "params": (("parameters", "total", "", 1, 0, fewer),),
    "flops": (
        ("matmul and conv FLOPs", "matmul_flops", "", 1, 0, fewer), ("second-tier FLOPs", "second_tier_flops", "", 1, 0, fewer),
    ),
    "memory": (("weights", "weights_bytes", "MiB", MIB, 2, less), ("peak", "peak_bytes", "MiB", MIB, 2, less)),
}
CLOCKS = {"cpu": (("wall time", "wall_s"), ("CPU time", "cpu_s")), "cuda": (("wall time", "wall_s"), ("device time", "device_s"))}
MISSING = "missing"
MOST_FAULTS = 5  # of a run's files that are shown


@dataclass(frozen=True)
class Row:
    """One quantity of one architecture in both runs. `gate` is kept, exceeded, undecided or invalid; empty where no limit holds."""

    architecture: str
    quantity: str
    measure: str
    old: float | None = None
    new: float | None = None
    unit: str = ""
    scale: float = 1
    digits: int = 0
    change: str = ""
    interval: str = ""
    verdict: str = ""
    basis: str = ""
    limit: float | None = None
    gate: str = ""
    shift: Shift | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Regression:
    """Two runs held against each other. `across` names what differs between their machines, versions or work."""

    reference: str
    rows: tuple[Row, ...]
    across: tuple[str, ...]
    notes: tuple[str, ...]
    faults: tuple[str, ...] = ()  # what `verify` finds wrong with the runs: with one of them, nothing is shown to be kept

    @property
    def exit_code(self) -> int:
        """5 where a row with a limit failed or cannot be trusted, else 3 where a limit is exceeded, 5 where a run is not proved, 4 where a
        limit is open, 0 where all are shown to be kept."""
        gates = {row.gate for row in self.rows}
        codes = ((INVALID in gates, EXIT_INVALID), (EXCEEDED in gates, EXIT_REGRESSION), (bool(self.faults), EXIT_INVALID),
                 (UNDECIDED in gates, EXIT_UNDECIDED))
        return next((code for holds, code in codes if holds), EXIT_DONE)

    @property
    def verdict(self) -> str:
        """The whole in one sentence."""
        said = {
            EXIT_INVALID: "invalid: a measurement failed or cannot be trusted" if any(row.gate == INVALID for row in self.rows) else
            "invalid: not what was measured, humar-bench verify names all of it", EXIT_REGRESSION: "regression: a limit is exceeded",
            EXIT_UNDECIDED: "undecided: nothing is shown to exceed its limit, and not all is shown to keep it",
            EXIT_DONE: "no regression: every limit is kept",
        }[self.exit_code]
        held = ", ".join(f"{row.quantity} of {row.architecture}" for row in self.rows if row.gate not in ("", KEPT))
        return f"{said} ({held})." if held else f"{said}."

    @property
    def table(self) -> Table:
        """One row a quantity, for people and programs alike: values in the row's unit."""
        columns = (
            Column("architecture", text=True), Column("quantity", text=True), Column("old"), Column("new"), Column("unit", text=True),
            Column("change", text=True), Column("interval", "95 % interval", text=True), Column("verdict", text=True),
            Column("basis", text=True), Column("limit"), Column("gate", "limit is", text=True),
        )
        rows = []
        for row in self.rows:
            cell = Column("value", digits=row.digits, scale=row.scale)
            mark = f" [across {', '.join(self.across)}]" if self.across and row.change else ""
            limit = "" if row.limit is None else f"+{100 * row.limit:g} %"
            rows.append({
                "architecture": row.architecture, "quantity": row.quantity, "old": cell.show(row.old), "new": cell.show(row.new),
                "unit": row.unit, "change": f"{row.change}{mark}", "interval": row.interval, "verdict": row.verdict, "basis": row.basis,
                "limit": limit, "gate": row.gate,
            })
        feet = [f"{row.quantity} of {row.architecture}: {note}" for row in self.rows for note in row.notes]
        told = [*self.faults[:MOST_FAULTS], *([f"and {rest} more."] if (rest := len(self.faults) - MOST_FAULTS) > 0 else [])]
        return Table("regression", "New against old", columns, tuple(rows), (*dict.fromkeys(feet), *self.notes, *told))


def compare_runs(
    old: Run, new: Run, *, limits: Mapping[str, float] | None = None, across_machines: bool = False, reference: str | None = None,
    faults: Iterable[str] = (),
) -> Regression:
    """Hold `new` against `old`. Without `limits` the defaults hold for every measure that the old run has. `faults` are what is known to be
    wrong with the files they were read from (`verify.read_audited`).

    Raises UsageError when a run is empty or mixes work, when they have nothing in common, and when they are of different machines,
    versions, work or arguments and that was not asked for; InvalidMeasurement when a record holds what cannot be read.
    """
    with readable((*old, *new)):
        found = _compare_runs(old, new, limits, across_machines, reference)
    return dataclasses.replace(found, faults=tuple(faults))


def _compare_runs(old: Run, new: Run, limits: Mapping[str, float] | None, across_machines: bool, reference: str | None) -> Regression:
    changed = sum(record.id != record.digest for run in (old, new) for record in run)
    old, new = _usable(old), _usable(new)
    for run, name in ((old, "OLD"), (new, "NEW")):
        try:
            known = compare(run).architectures
        except UsageError as error:
            raise UsageError(f"{name} cannot be compared: {error}") from None
        if reference is not None and reference not in known:
            raise UsageError(f"reference is {reference!r}; {name} holds {', '.join(known)}.")
    across = unlike(old, new)
    if across and not across_machines:
        name, was, now = across[0]
        said = "measure both alike, or add --across-machines to see ratios that say so."
        raise UsageError(f"OLD was measured with {name} {was} and NEW with {now}; {said}")
    explicit, limits = limits is not None, dict(DEFAULT_LIMITS if limits is None else limits)
    rows = [row for measure in EXACT for row in _exact_rows(measure, old, new, limits.get(LIMIT_OF[measure]))]
    reference = reference or _reference(old, new)
    speed, notes = _speed_rows(old, new, reference, limits.get("slower"))
    rows += speed
    if not any(row.verdict != MISSING for row in rows):
        raise UsageError("OLD and NEW have no measurement in common; compare runs of the same architectures and measures.")
    if explicit and (lost := [name for measure, name in LIMIT_OF.items() if name in limits and not len(old.select(measure=measure))]):
        raise UsageError(f"--fail-on names {lost[0]} and OLD holds nothing to hold it against; leave it out, or measure that first.")
    if changed:
        notes.append(f"{changed} records were changed after they were measured; humar-bench verify names them.")
    notes += [f"OLD and NEW differ in {name}: {was} and {now}." for name, was, now in across]
    return Regression(reference, tuple(rows), tuple(dict.fromkeys(name for name, _, _ in across)), tuple(notes))


def _usable(run: Run) -> Run:
    """The last record of each measurement; one that holds what cannot be counts as failed and says why."""
    def held(record: Record) -> Record:
        found = impossible(record)
        reason = f"the record of process {record.process} cannot be used: {'; '.join(found)}."
        return dataclasses.replace(record, status="failed", kind="not finite", reason=reason, measured=None) if found else record

    return Run(tuple(held(each) for each in run.latest()))


# May they be compared -------------------------------------------------------------------------------------------------------------


def unlike(old: Run, new: Run) -> list[tuple[str, str, str]]:
    """(name, old, new) of every condition in which two runs differ: machine, device, number type, versions, workload, arguments."""
    found: dict[str, tuple[str, str]] = {}
    for measure in MEASURES:
        sides = [list(run.select(measure=measure)) for run in (old, new)]
        if not all(sides):
            continue
        conditions = [[_conditions(record) for record in side] for side in sides]
        for name in dict.fromkeys(name for side in conditions for each in side for name in each):
            was, now = ([str(each[name]) for each in side if name in each] for side in conditions)
            if was and now and set(was) != set(now):
                found.setdefault(name, tuple(" and ".join(sorted(set(each))) for each in (was, now)))
    return [(name, was, now) for name, (was, now) in found.items()]


def _conditions(record: Record) -> dict[str, Any]:
    """What a record was measured under; a record of a child that died knows its arguments and nothing of its environment."""
    facts = {name: record.environment.get(name) for name in FACTS} if record.environment else {}
    if record.measure == "fps" and record.ok and record.measured.get("tf32"):
        facts["tf32"] = record.measured["tf32"]
    work = {name: value for name, value in record.workload.items() if name != "name"}
    run = {"dtype": record.asked_run("dtype"), **({"backend": record.asked_run("backend")} if record.measure == "fps" else {})}
    return {**facts, **run, **work, **record.asked}


def _reference(old: Run, new: Run) -> str:
    """The first architecture of the new run that the old one holds too."""
    known = set(compare(old).architectures)
    names = compare(new).architectures
    return next((name for name in names if name in known), names[0])


# Exact measures -------------------------------------------------------------------------------------------------------------------


def _sides(measure: str, old: Run, new: Run) -> Iterable[tuple[str, list[Record], list[Record]]]:
    """Every architecture of either run with its records of a measure."""
    runs = [run.select(measure=measure) for run in (old, new)]
    for name in dict.fromkeys([*runs[0].architectures, *runs[1].architectures]):
        yield name, *(sorted(run.select(architecture=name), key=lambda each: each.process) for run in runs)


def _no_pair(architecture: str, measure: str, was: list[Record], now: list[Record], limit: float | None) -> Row | None:
    """The row that says why there is nothing to compare, or None where there is."""
    name = {"fps": "speed", "params": "parameters", "flops": "FLOPs"}.get(measure, measure)
    if not now:
        said = "not measured in NEW, so its limit cannot be shown to be kept." if limit is not None else "not measured in NEW."
        return Row(architecture, name, measure, verdict=MISSING, limit=limit, gate="" if limit is None else UNDECIDED, notes=(said,))
    failed = [f"failed in {side}: {reason_of(each)}" for side, records in (("OLD", was), ("NEW", now)) for each in records if not each.ok]
    if failed:
        gate = "" if limit is None else INVALID
        return Row(architecture, name, measure, verdict=INVALID, limit=limit, gate=gate, notes=tuple(dict.fromkeys(failed)))
    return None if was else Row(architecture, name, measure, verdict=MISSING, notes=("not measured in OLD.",))


def _exact_rows(measure: str, old: Run, new: Run, limit: float | None) -> Iterable[Row]:
    for architecture, was, now in _sides(measure, old, new):
        if row := _no_pair(architecture, measure, was, now, limit):
            yield row
            continue
        one, other = was[-1].measured, now[-1].measured
        for name, key, unit, scale, digits, words in EXACT[measure]:
            before, after = one.get(key), other.get(key)
            row = Row(architecture, name, measure, before, after, unit, scale, digits, basis="exact", limit=limit)
            if before is None or after is None:
                yield dataclasses.replace(row, verdict=INVALID, gate="" if limit is None else INVALID, notes=("a value is missing.",))
                continue
            change = words(before, after) if before == after else f"{words(before, after)} ({after - before:+,})"
            verdict = SAME if before == after else "more" if after > before else "less"
            gate = "" if limit is None else EXCEEDED if after > before * (1 + limit) else KEPT
            yield dataclasses.replace(row, change=change, verdict=verdict, gate=gate, notes=_moved(key, one, other))


def _moved(key: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """Which components changed."""
    parts = [each.get("components" if key != "peak_bytes" else "by_component") or {} for each in (one, other)]
    if key in ("weights_bytes", "second_tier_flops"):
        return ()
    values = [{name: value[key] if isinstance(value, dict) else value for name, value in part.items()} for part in parts]
    names = dict.fromkeys([*values[0], *values[1]])
    moved = {name: values[1].get(name, 0) - values[0].get(name, 0) for name in names}
    said = ", ".join(f"{name} {amount:+,}" for name, amount in moved.items() if amount)
    return (f"by component: {said}.",) if said else ()


# Speed ----------------------------------------------------------------------------------------------------------------------------


Process = tuple[int, str, str]  # its number, which child it was, and where that is not recorded, when: all equal in the same measurement


def _speed_rows(old: Run, new: Run, reference: str, limit: float | None) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    fps = [run.select(measure="fps") for run in (old, new)]
    if not all(len(run) for run in fps):
        return [row for each in _sides("fps", old, new) if (row := _no_pair(each[0], "fps", each[1], each[2], limit))], []
    yardstick, why = _same_reference(old, new, reference)
    kind = _kind(fps[1])
    for architecture, was, now in _sides("fps", old, new):
        if row := _no_pair(architecture, "fps", was, now, limit) or _distrusted(fps, architecture, reference, yardstick, limit):
            rows.append(row)
            continue
        for quantity, clock in CLOCKS.get(kind, CLOCKS["cpu"]):
            sides = [_medians(records, clock) for records in (was, now)]
            others = [_medians(run.select(architecture=reference), clock) for run in fps] if yardstick else None
            if all(sides):
                rows.append(_speed_row(architecture, quantity, sides, others, reference, limit, MARGINS.get(kind, MARGINS["cpu"])))
    judged = sum(row.shift is not None and row.limit is not None for row in rows)
    rows = [
        dataclasses.replace(row, gate=row.shift.limit(row.limit, judged=judged)) if row.shift is not None and row.limit is not None else row
        for row in rows
    ]
    return rows, [why] if why else []


def _same_reference(old: Run, new: Run, reference: str) -> tuple[bool, str]:
    """Whether both runs timed the same reference and something beside it, and a sentence where they did not."""
    sides = [[record for record in run.select(architecture=reference) if record.ok] for run in (old, new)]
    timed = [set(run.select(measure="fps", status="ok").architectures) for run in (old, new)]
    if reference not in timed[0] & timed[1] or len(timed[0] & timed[1]) < 2:
        said = "no second architecture was timed in both runs, so absolute times are compared: what the machine did in between is in them."
        return False, said
    for said, value in (
        ("builders", lambda record: record.spec), ("built facts", lambda record: record.built),
        ("parameters", lambda record: record.measure == "params" and record.measured["total"]),
        ("FLOPs", lambda record: record.measure == "flops" and record.measured["matmul_flops"]),
    ):
        was, now = ({str(found) for record in side if (found := value(record))} for side in sides)
        if was and now and was != now:
            return False, f"{reference} has other {said} in NEW, so it is no common reference, and absolute times are compared."
    return True, ""


def _kind(fps: Run) -> str:
    return next((str(each.environment["device"]).partition(":")[0] for each in fps if each.environment.get("device")), "cpu")


def _distrusted(fps: list[Run], architecture: str, reference: str, yardstick: bool, limit: float | None) -> Row | None:
    """A row for times that their own run calls invalid, or that ran at other clocks in the other run."""
    notes = []
    if yardstick:
        for run, side in zip(fps, ("OLD", "NEW"), strict=True):
            speed = read_speeds(run, reference)[architecture]
            if speed.verdict == INVALID:
                notes.append(f"invalid in {side}: {speed.why}")
    else:
        for run, side in zip(fps, ("OLD", "NEW"), strict=True):
            if fault := mixture_fault(run):
                notes.append(f"invalid in {side}: {fault}")
        pooled = [_pooled(run.select(architecture=architecture)) for run in fps]
        if fault := clock_fault([pooled[0]], [pooled[1]]):
            notes.append(fault.replace("the reference", "OLD").replace("the candidate", "NEW"))
    gate = "" if limit is None else INVALID
    return Row(architecture, "speed", "fps", verdict=INVALID, limit=limit, gate=gate, notes=tuple(notes)) if notes else None


def _pooled(records: Run) -> ProcessSample:
    told = [each or {} for record in records for each in record.measured.get("round_telemetry") or []]
    return ProcessSample([1.0], [each.get("sm_clock_mhz") for each in told], [each.get("throttled") for each in told])


def _medians(records: Iterable[Record], clock: str) -> dict[Process, float]:
    """log of each process's median; empty where one of them is no positive number."""
    medians = {}
    for record in records:
        values = record.measured.get(clock) if record.ok else None
        if not values or not all(isinstance(each, (int, float)) and each > 0 for each in values):
            return {}
        child = record.measured.get("child") or ""
        medians[record.process, child, "" if child else record.time] = float(np.log(np.median(values)))
    return medians


def _speed_row(
    architecture: str, quantity: str, sides: list[dict[Process, float]], others: list[dict[Process, float]] | None, reference: str,
    limit: float | None, margin: float,
) -> Row:
    """One clock of one architecture: the same processes, else the ratio against the reference, else absolute times."""
    was, now = sides
    notes: tuple[str, ...] = ()
    if shared := sorted(was.keys() & now.keys()):
        basis, shift = "the same processes", paired([now[each] - was[each] for each in shared])
        notes = (f"{len(shared)} processes are the same measurement in both runs; they are compared one by one.",)
    elif others is not None and architecture != reference and (ratios := _ratios(sides, others)):
        basis, shift = f"ratio against {reference}", unpaired(*ratios)
    else:
        basis, shift = "absolute times", unpaired(list(was.values()), list(now.values()))
        if others is not None and architecture == reference:
            limit, notes = None, ("the reference is the yardstick; its own times are held against no limit.",)
            if shift.verdict(margin) in (FASTER, SLOWER):
                notes = (f"the reference itself came out {_distance(shift.mean)}: the machine or its code changed between the runs.",)
    if shift.error is None:
        notes = (*notes, f"{min(len(was), len(now))} process says nothing about the next start; at least two in each run are needed.")
    verdict, low_high = shift.verdict(margin), [math.expm1(min(each, 700.0)) for each in shift.interval()]
    interval = "" if shift.error is None else " to ".join(f"{100 * each:+.1f} %" for each in low_high)
    change = f"same within {100 * margin:g} %" if verdict == SAME else _distance(shift.mean)
    old, new = (1e3 * math.exp(float(np.mean(list(each.values())))) for each in sides)
    return Row(architecture, quantity, "fps", old, new, "ms", 1, 3, change, interval, verdict, basis, limit, "", shift, notes)


def _ratios(sides: list[dict[Process, float]], others: list[dict[Process, float]]) -> list[list[float]]:
    """Per run, log(own time / reference time) of every process that timed both; empty where a run has none."""
    ratios = []
    for own, other in zip(sides, others, strict=True):
        base = {key[:2]: value for key, value in other.items()}
        ratios.append([value - base[key[:2]] for key, value in own.items() if key[:2] in base])
    return ratios if all(ratios) else []


def _distance(shift: float) -> str:
    """A shift in words: '10 % slower', '2.00x faster'."""
    factor, word = math.exp(abs(shift)), "slower" if shift > 0 else "faster"
    return f"{times(factor) if factor >= 1.5 else percent(factor - 1)} {word}"
