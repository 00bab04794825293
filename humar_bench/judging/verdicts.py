"""Timing records -> verdicts: pure functions, so that the verdict a run stopped at can be made again from its records alone.

On a CPU a difference is detected by CPU time, which a busy neighbour disturbs less, on a device with events by device time. Neither sees
waiting. So every row is also held against the mean wall time of its rounds, as a second hypothesis of the same Holm family: where only
that one differs, its verdict counts; where the two contradict each other, the row is undecided; and "same" has to be shown by both, so
that a wall time too noisy to tell hides no waiting.

A difference of exactly the margin is called "same" by at most the level of all looks together, 0.5 %, on whichever clock it lies. By Monte
Carlo with +2.0 % and looks after 3 to 15 processes that are 0.8 % apart: work, slower 100 % and same 0.0 %; waiting, with means of wall
time 1 % apart beside that, slower 94 %, same 0.2 %, the rest undecided; were "same" by CPU time enough, it would be said of 87 %
(`tests/judging/test_speeds.py`). The price: on a machine whose wall times are 3 % apart, equal architectures mostly stay undecided.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from humar_bench.args import RunArgs
from humar_bench.judging import faults, statistics
from humar_bench.judging.faults import Arms, Process, Varied
from humar_bench.judging.statistics import DECIDED, FASTER, INVALID, SAME, SLOWER, UNDECIDED, Comparison, LookPlan, ProcessSample
from humar_bench.records.record import Record, Run

CLEAN_ROUNDS, CLEAN_PROCESSES = 5, 3  # fewer rounds without preemption in a process, or fewer such processes, say nothing
METRICS = {"cpu_s": "CPU time", "device_s": "device time", "wall_s": "wall time"}


@dataclass(frozen=True)
class Look:
    """After how many processes the verdicts are looked at, and at what level (`statistics.LookPlan`)."""

    processes: int
    first: int
    last: int
    level: float
    final: bool
    early: bool = False


@dataclass(frozen=True)
class Row:
    """One architecture against the reference. `detected` holds ratio, interval and verdict; `wall` is what a user experiences (medians),
    `clean` the same over rounds in which nothing was preempted, None below the quorum."""

    detected: Comparison
    metric: str
    wall: Comparison
    clean: Comparison | None
    clean_rounds: int
    rounds: int


@dataclass(frozen=True)
class Judged:
    """Everything that is said about a comparison. `control` is the control arm's row, None where there is none; `control_note` why."""

    rows: Mapping[str, Row] = field(default_factory=dict)
    control: Row | None = None
    control_of: str = ""
    control_note: str = ""
    varied: Mapping[str, Varied] = field(default_factory=dict)
    look: Look | None = None

    @property
    def finished(self) -> bool:
        """Whether another process could change nothing, or none is left."""
        return self.look is None or self.look.final or all(
            row.detected.verdict in (*DECIDED, INVALID) for row in self.rows.values()
        )


def arms_of(run: Run) -> dict[str, dict[Process, Mapping[str, Any]]]:
    """Every architecture's finished processes, control arms included; a measurement made again replaces the earlier one."""
    arms: dict[str, dict[int, Record]] = {}
    for record in run:
        arms.setdefault(record.architecture, {})[record.process] = record
    return {
        name: {(process, record.measured.get("child", "")): record.measured for process, record in sorted(records.items())
               if record.ok and record.measured["wall_s"]}
        for name, records in arms.items()
    }


def judge(run: Run, reference: str) -> Judged:
    """All verdicts against `reference`, at the level of the look that these records are."""
    arms, look, margin = arms_of(run), look_at(run), margin_of(run)
    level, early = (statistics.ALPHA, False) if look is None else (look.level, look.early)
    plain = {name: own for name, own in arms.items() if name in run.architectures}
    varied = {name: faults.hold_varied(own.values()) for name, own in plain.items() if own}
    rows = _rows({name: own for name, own in plain.items() if name != reference}, plain.get(reference, {}), margin, level, early)
    control_of, control, note = _control(run, arms, margin, level)
    control_fault = "" if control is None else statistics.control_fault(control.detected)
    table_fault = faults.mixture_fault(run) or faults.changed_fault(arms) or control_fault
    table_fault = table_fault or faults.own_fault(reference, _values(plain.get(reference)), varied.get(reference))
    for name, row in rows.items():
        fault = table_fault or faults.conditions_fault(reference, arms[reference], name, arms[name])
        fault = fault or faults.own_fault(name, _values(plain[name]), varied[name])
        doubt = faults.doubt(row.detected, name, varied[name]) or faults.doubt(row.detected, reference, varied.get(reference), base=True)
        if fault or doubt:
            detected = dataclasses.replace(row.detected, verdict=INVALID if fault else UNDECIDED, reason=fault or doubt)
            rows[name] = dataclasses.replace(row, detected=detected)
    return Judged(rows, control, control_of, note, varied, look)


def _values(arm: Mapping[Process, Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
    return list((arm or {}).values())


def margin_of(run: Run) -> float:
    """The difference below which two speeds are called the same, by kind of device."""
    device = next((str(record.environment.get("device") or record.run.get("device")) for record in run), "cpu")
    return statistics.MARGINS.get(device.partition(":")[0], statistics.MARGINS["cpu"])


# Looks ----------------------------------------------------------------------------------------------------------------------------


def look_at(run: Run) -> Look | None:
    """The look that these records are: after so many processes, at the level kept for it; None where one process is all there will be.

    It is the last one when no process is left or the budget is used up, which ends no run at an early look. A run that ended before its
    first look was planned (some processes failed, or somebody stopped it) was never looked at, and has all of the level.
    """
    records = [record for record in run if record.ok and not record.control_of]
    if not records:
        return None
    told = {each.name: records[0].asked_run(each.name) for each in dataclasses.fields(RunArgs)}
    asked = RunArgs(**{name: value for name, value in told.items() if value is not None})
    processes = len({record.process for record in records})
    if asked.most_processes < 2:
        return None
    plan = LookPlan(first=asked.looks_from, last=asked.most_processes)
    final = processes >= plan.last or (processes >= plan.first and not plan.early(processes) and spent_s(run) >= asked.budget)
    if processes < plan.first:
        return Look(processes, plan.first, plan.last, plan.alpha, final)
    return Look(processes, plan.first, plan.last, plan.level(processes, final=final), final, plan.early(processes, final=final))


def spent_s(run: Run) -> float:
    """Seconds of timed forwards of the architecture that took most in each process, its control added, over all processes."""
    per_process: dict[int, dict[str, float]] = {}
    for record in run:
        if record.ok:
            payer = record.control_of or record.architecture
            spent = per_process.setdefault(record.process, {})
            spent[payer] = spent.get(payer, 0.0) + record.measured.get("spent_s", 0.0)
    return sum(max(spent.values()) for spent in per_process.values())


# Rows -----------------------------------------------------------------------------------------------------------------------------


def _rows(
    arms: Arms, base: Mapping[Process, Mapping[str, Any]], margin: float, level: float, early: bool = False
) -> dict[str, Row]:
    """Every arm against the base, from the processes both finished, their verdicts adjusted together."""
    rows: dict[str, Row] = {}
    waits: list[Comparison] = []
    for name, own in arms.items():
        if both := sorted(base.keys() & own.keys()):
            rows[name], wait = _row([base[each] for each in both], [own[each] for each in both], margin, level, early)
            waits.append(wait)
    detected = [row.detected for row in rows.values()]
    if early:
        judged = _both([(one.detected, wait) for one, wait in zip(rows.values(), waits, strict=True)])
    else:
        adjusted = statistics.judge_table(detected + waits)
        judged = [_combined(one, wait, row.metric) for one, wait, row in zip(adjusted, adjusted[len(rows):], rows.values(), strict=False)]
    return {name: dataclasses.replace(row, detected=one) for (name, row), one in zip(rows.items(), judged, strict=True)}


def _both(pairs: Sequence[tuple[Comparison, Comparison]]) -> list[Comparison]:
    """At an early look: each row's verdict where both clocks show it. What both have to show needs no adjustment for being two
    (Berger's intersection-union test, Technometrics, 1982), so that few processes are enough for what is large."""
    worse = [None if None in (one.p_different, wait.p_different) else max(one.p_different, wait.p_different) for one, wait in pairs]
    judged = [statistics.judge_table([dataclasses.replace(pair[clock], p_different=p) for pair, p in zip(pairs, worse, strict=True)])
              for clock in (0, 1)]
    found = []
    for one, wait in zip(*judged, strict=True):
        agree = one.verdict == wait.verdict or one.verdict not in DECIDED
        said = "CPU or device time and mean wall time do not both show a difference that is large enough for a look after so few processes."
        found.append(one if agree else dataclasses.replace(one, verdict=UNDECIDED, reason=said))
    return found


def _row(base: Sequence[Mapping], own: Sequence[Mapping], margin: float, level: float, early: bool) -> tuple[Row, Comparison]:
    key = next(key for key in ("device_s", "cpu_s", "wall_s") if all(one.get(key) for one in (*base, *own)))

    def compared(one: Sequence[ProcessSample], other: Sequence[ProcessSample]) -> Comparison:
        return statistics.compare_processes(one, other, margin=margin, alpha=level, early=early)

    def held(make: Any) -> Comparison:
        return compared([make(one) for one in base], [make(one) for one in own])

    clean = [_clean_rounds(one, other) for one, other in zip(base, own, strict=True)]
    counted = [at for at, rounds in enumerate(clean) if len(rounds) >= CLEAN_ROUNDS]

    def picked(arm: Sequence[Mapping]) -> list[ProcessSample]:
        return [ProcessSample([arm[at]["wall_s"][index] for index in clean[at]]) for at in counted]

    def mean(arm: Sequence[Mapping]) -> list[ProcessSample]:
        return [ProcessSample([float(np.mean(one["wall_s"]))]) for one in arm]

    enough = len(counted) >= CLEAN_PROCESSES and any(any(one.get("preempted") or []) for one in (*base, *own))
    cleaned = compared(picked(base), picked(own)) if enough else None
    wait = compared(mean(base), mean(own))
    row = Row(
        held(lambda one: _sample(one, key)), METRICS[key], held(lambda one: ProcessSample(one["wall_s"])), cleaned,
        sum(map(len, clean)), sum(min(len(one["wall_s"]), len(other["wall_s"])) for one, other in zip(base, own, strict=True)),
    )
    return row, wait


def _sample(measured: Mapping[str, Any], key: str) -> ProcessSample:
    told = [each or {} for each in measured.get("round_telemetry") or []]
    return ProcessSample(
        measured[key], [each.get("sm_clock_mhz") for each in told], [each.get("throttled") for each in told], measured.get("steady", True)
    )


def _clean_rounds(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[int]:
    """Rounds in which neither arm was preempted: dropped for both or for none."""
    rounds = min(len(one["wall_s"]), len(other["wall_s"]))
    marks = [list(each.get("preempted") or [False] * rounds) for each in (one, other)]
    return [index for index in range(rounds) if not (marks[0][index] or marks[1][index])]


def _combined(detected: Comparison, wait: Comparison, metric: str) -> Comparison:
    """One verdict from the metric that detects and from the mean wall time, which also sees waiting."""
    ways = {FASTER, SLOWER}
    if metric == METRICS["wall_s"] or detected.verdict == INVALID:
        return detected
    if wait.verdict not in ways:
        if detected.verdict == SAME and wait.verdict != SAME:
            said = f"by {metric} it is the same, and by mean wall time, which also sees waiting and threads, {wait.reason}"
            return dataclasses.replace(detected, verdict=UNDECIDED, reason=said)
        return detected
    if detected.verdict in ways:
        if detected.verdict == wait.verdict:
            return detected
        said = f"by {metric} it is {detected.verdict} and by mean wall time {wait.verdict}: {wait.reason}"
        return dataclasses.replace(detected, verdict=UNDECIDED, reason=said)
    what = "the same" if detected.verdict == SAME else "undecided"
    said = f"by {metric} it is {what}, and by mean wall time, which also sees waiting and threads, {wait.reason}"
    return dataclasses.replace(detected, verdict=wait.verdict, reason=said)


def _control(run: Run, arms: Arms, margin: float, level: float) -> tuple[str, Row | None, str]:
    """(architecture, the row of its second measurement, why there is none)."""
    again = next((record for record in run if record.control_of), None)
    if again is None:
        return "", None, "No control arm was timed: nothing here shows that this machine does not tell identical models apart."
    of = again.control_of
    row = _rows({"": arms[again.architecture]}, arms.get(of, {}), margin, level).get("")
    if row is None:
        why = next((record.reason for record in run if record.control_of and not record.ok), "it shares no process with it.")
        return of, None, f"The control arm, {of} a second time, was not measured: {why}"
    return of, row, ""
