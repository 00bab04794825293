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
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from humar_bench.args import RunArgs
from humar_bench.judging import statistics
from humar_bench.judging.oddities import stray_fault
from humar_bench.judging.statistics import DECIDED, FASTER, INVALID, SAME, SLOWER, UNDECIDED, Comparison, LookPlan, ProcessSample
from humar_bench.records.record import Record, Run, other_machine

CLEAN_ROUNDS, CLEAN_PROCESSES = 5, 3  # fewer rounds without preemption in a process, or fewer such processes, say nothing
VARIED_MARGIN, VARIED_CONFIDENCE = 0.03, 0.99  # time on one input against time on inputs never seen
DOUBT_CONFIDENCE, MOST_DOUBT = 0.90, 1.5  # of the interval whose upper end an undecided check allows; and what no verdict stands
FEWEST_PAIRS = 5  # processes with such pairs; an interval over fewer allows anything, so twice what was seen, on a log scale, is taken
UNHELD = "no float32 forward"  # how the reason begins why outputs were held against nothing (running/speed_worker.py)
METRICS = {"cpu_s": "CPU time", "device_s": "device time", "wall_s": "wall time"}

Process = tuple[int, str]  # its number, and the child it was: rounds pair by index only within one child
Arms = Mapping[str, Mapping[Process, Mapping[str, Any]]]  # architecture -> process -> what its record measured


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
class Varied:
    """Time on inputs never seen / time on one input, over processes. `verdict` is agrees, differs, undecided or skipped; `most` is how much
    longer new inputs may take where it is undecided: the 95 % upper bound, of one process alone the square of its ratio."""

    verdict: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 0
    most: float | None = None


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
    varied = {name: hold_varied(own.values()) for name, own in plain.items() if own}
    rows = _rows({name: own for name, own in plain.items() if name != reference}, plain.get(reference, {}), margin, level, early)
    control_of, control, note = _control(run, arms, margin, level)
    table_fault = mixture_fault(run) or _changed_fault(arms) or ("" if control is None else statistics.control_fault(control.detected))
    table_fault = table_fault or _varied_fault(reference, varied.get(reference)) or stray_fault(reference, _values(plain.get(reference)))
    table_fault = table_fault or _unheld_fault(reference, _values(plain.get(reference)))
    for name, row in rows.items():
        fault = table_fault or _conditions_fault(reference, arms[reference], name, arms[name]) or _varied_fault(name, varied[name])
        fault = fault or stray_fault(name, _values(plain[name])) or _unheld_fault(name, _values(plain[name]))
        if fault:
            rows[name] = dataclasses.replace(row, detected=dataclasses.replace(row.detected, verdict=INVALID, reason=fault))
        elif doubt := _doubt(row.detected, name, varied[name]) or _doubt(row.detected, reference, varied.get(reference), base=True):
            rows[name] = dataclasses.replace(row, detected=dataclasses.replace(row.detected, verdict=UNDECIDED, reason=doubt))
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


# Faults ---------------------------------------------------------------------------------------------------------------------------


def hold_varied(processes: Any) -> Varied:
    """One architecture's time on the same input against its time on new ones, in the rounds that had both."""
    logs, pairs = [], []
    for one in processes:
        rounds = one.get("varied_rounds") or []
        key = "wall_s" if one.get("device_s") else "cpu_s"
        new, same = one.get(f"varied_{key}") or [], [one[key][index] for index in rounds if index < len(one[key])]
        if rounds and len(new) == len(same) and min(*new, *same, 1.0) > 0:
            logs.append(statistics.log_ratio(new, same))
            pairs.append((new, same))
    count = sum(len(new) for new, _ in pairs)
    if not logs:
        return Varied("skipped")
    ratio = math.exp(sum(logs) / len(logs))
    low, high, most = _varied_ends(logs, pairs[0], max(ratio, 1.0) ** 2)
    if low is None:
        return Varied(UNDECIDED, ratio, pairs=count, most=most)
    if low > 1 + VARIED_MARGIN or high < 1 / (1 + VARIED_MARGIN):
        return Varied("differs", ratio, low, high, count)
    agrees = low >= 1 / (1 + VARIED_MARGIN) and high <= 1 + VARIED_MARGIN
    return Varied("agrees" if agrees else UNDECIDED, ratio, low, high, count, None if agrees else most)


def _varied_ends(
    logs: Sequence[float], first: tuple[Sequence[float], Sequence[float]], twice: float
) -> tuple[float | None, float | None, float]:
    """Both ends of the ratio's interval, over processes or, of one alone, over its rounds `first`; and how much longer new inputs may take
    by it, which few processes do not tell: `twice` what was seen, on a log scale."""
    if len(logs) == 1:
        low, high = statistics.in_process_interval(*first, VARIED_CONFIDENCE) or (None, None)
        return low, high, twice if high is None else high
    found, doubt = (statistics.weigh(np.array(logs), VARIED_MARGIN, confidence) for confidence in (VARIED_CONFIDENCE, DOUBT_CONFIDENCE))
    return math.exp(found.low), math.exp(found.high), math.exp(doubt.high) if len(logs) >= FEWEST_PAIRS else twice


def _varied_fault(name: str, varied: Varied | None) -> str:
    if varied is None or varied.verdict != "differs":
        return ""
    return (
        f"{name} takes {varied.ratio:.3g} times as long on inputs it has not seen as on the one it is timed with "
        f"({varied.low:.3g} to {varied.high:.3g}): what it does with an input depends on whether it knows it."
    )


def _doubt(found: Comparison, name: str, varied: Varied | None, *, base: bool = False) -> str:
    """One sentence when an architecture may owe its verdict to inputs it knows: its check is undecided, and what the check's interval
    allows would take half of its lead away, on a log scale, or is beyond noise (the reference, `base`: its lead over another)."""
    if varied is None or varied.verdict != UNDECIDED or varied.most is None or found.verdict != (SLOWER if base else FASTER):
        return ""
    least = min(1 / end if base else end for end in (found.ratio, found.low, found.high) if end)
    if varied.most <= min(MOST_DOUBT, math.sqrt(max(least, 1.0))):
        return ""
    return (
        f"{name} took {varied.ratio:.3g} times as long on inputs it had not seen, and by this check that may be {varied.most:.3g} times: "
        "whether it is as fast on those is not known; more processes would tell."
    )


def _unheld_fault(name: str, processes: Sequence[Mapping[str, Any]]) -> str:
    """One sentence when the outputs of an architecture were compared with nothing in any process."""
    told = [one.get("agreement") or {} for one in processes]
    if not told or any(each.get("checked") or not each.get("skipped", "").startswith(UNHELD) for each in told):
        return ""
    return f"the outputs of {name} were compared with nothing ({told[0]['skipped']}): no speed without equality."


def _built_so(measured: Mapping[str, Any]) -> bool:
    """Whether an arm's weights were, around all its blocks, of the number types its builder gave them, unasked."""
    types = measured.get("as_built") or {"float32": 1}
    floating = sorted(name for name in types if not name.startswith("complex"))
    seen = [state.get("weights") for state in measured.get("conditions") or []]
    return not measured.get("converted_to") and all(each in (None, [], floating) for each in seen)


def mixture_fault(run: Run) -> str:
    """One sentence when processes of different machines or versions stand beside each other: they are no replicates."""
    known = [record for record in run if record.environment]
    for record in known[1:]:
        if found := other_machine(known[0], record):
            name, was, now = found
            return f"its processes were measured with {name} {was} and {now}: different machines or versions are no replicates."
    return ""


def _changed_fault(arms: Arms) -> str:
    """One sentence when an arm changed the state of the process it was timed in: all that came after it is affected."""
    for name, own in arms.items():
        for measured in own.values():
            for key, (before, after) in (measured.get("changed") or {}).items():
                return f"{name} changes {key} from {before} to {after} while it runs; what is timed beside it runs under other conditions."
    return ""


def _conditions_fault(reference: str, base: Mapping, name: str, own: Mapping) -> str:
    """One sentence when two arms were timed under different conditions."""
    for process in sorted(base.keys() & own.keys()):
        one, other = base[process], own[process]
        for inside, key in ((True, "inside"), (False, "conditions")):
            ours, theirs = ([each.get(key) or {}] if inside else each.get(key) or [] for each in (other, one))
            for fact in dict.fromkeys(fact for state in (*ours, *theirs) for fact in state):
                if fact == "weights" and not inside and _built_so(one) and _built_so(other):
                    continue  # it is what is compared; the table says so
                here, there = ([state.get(fact, "as around it" if inside else None) for state in states] for states in (ours, theirs))
                if there and any(each not in (None, []) and each not in there for each in here):
                    who = f"{name} inside its forward" if inside else name
                    return f"{fact} is {_shown(here)} for {who} and {_shown(there)} for {reference}: they ran under other conditions."
    return ""


def _shown(values: Sequence[Any]) -> str:
    said = [" and ".join(map(str, each)) if isinstance(each, list) else str(each) for each in values]
    return " and then ".join(dict.fromkeys(said))
