"""Verdicts from raw times: pure functions, no clock, no torch.

The unit of replication is the process. Inside one, reference and candidate run in the same shuffled rounds, so what disturbs one
disturbs the other; between processes everything that a restart changes (memory layout, neighbours, clocks) is drawn anew. So each
process gives one number, the logarithm of (median reference time / median candidate time), and the interval is Student's t over those.
After Kalibera and Jones, "Rigorous benchmarking in reasonable time" (ISMM 2013).

A ratio is always reference time / candidate time: the speed-up, above 1 where the candidate is faster.

Verdicts, with a practical margin d and a level alpha:
  same       the ratio is inside 1/(1+d) .. 1+d: two one-sided t tests (TOST), both at alpha. Goes before the next two.
  faster     a two-sided t test at alpha excludes 1; slower likewise. Because "same" goes first, a ratio less than d/2 away from 1 is
             never called different (`FLOOR_SHARE` holds that in Holm-adjusted tables too): an accident of memory layout can shift a
             ratio by that much, and no number of rounds averages it out.
  undecided  neither; also whenever there is only one process, since one process says nothing about the next start.
  invalid    the data cannot be used: clocks differ, throttling, a control arm that differs, times that are no positive numbers.

A run is looked at after every process (`LookPlan`): the levels of all looks add up to alpha, and looks after fewer than five processes call
only what is 1.2 times as fast or as slow.

alpha defaults to 0.005: half of the 1 % of false alarms that is promised, so that noise which is not normal keeps the promise too
(`tests/judging/test_statistics.py` measures it). The interval shown is 95 %, the usual one; a verdict therefore asks for more than that the
shown interval excludes 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from humar_bench.errors import UsageError

ALPHA = 0.005
CONFIDENCE = 0.95
MARGINS = {"cpu": 0.02, "cuda": 0.01, "virtual": 0.01}
FLOOR_SHARE = 0.5  # of the margin: a smaller difference is never called faster or slower
USUAL_FIRST, EARLY_RATIO = 5, 1.2  # a look after fewer processes is an early one, and calls only a difference of so much
FASTER, SLOWER, SAME, UNDECIDED, INVALID = "faster", "slower", "same", "undecided", "invalid"
DECIDED = (FASTER, SLOWER, SAME)

MAX_CLOCK_GAP = MAX_THROTTLED_SHARE = 0.01


@dataclass(frozen=True)
class ProcessSample:
    """One architecture in one process: seconds per forward, one a round, and what was read beside them (empty where nothing was)."""

    values: Sequence[float]
    clocks_mhz: Sequence[float | None] = ()
    throttled: Sequence[bool | None] = ()
    steady: bool = True


@dataclass(frozen=True)
class Comparison:
    """A candidate against the reference. `low` and `high` bound the ratio over processes at `confidence`; None where no claim can be made.

    `in_process_low` and `in_process_high` (99 %) are given instead when there is one process: they hold for that process only.
    `p_different` is against "equal", `p_same` against "at least the margin apart"; `holm_*` are those adjusted for a table's rows.
    """

    ratio: float | None
    low: float | None
    high: float | None
    verdict: str
    reason: str
    processes: int
    margin: float
    alpha: float
    confidence: float = CONFIDENCE
    early: bool = False
    p_different: float | None = None
    p_same: float | None = None
    holm_different: float | None = None
    holm_same: float | None = None
    in_process_low: float | None = None
    in_process_high: float | None = None
    log_ratios: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


class Evidence(NamedTuple):
    """Arrays over trials: the mean log ratio, its interval, and both p values."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_different: np.ndarray
    p_same: np.ndarray


def weigh(log_ratios: np.ndarray, margin: float, confidence: float = CONFIDENCE) -> Evidence:
    """The evidence in log ratios of shape (..., processes), at least two processes."""
    log_ratios = np.asarray(log_ratios, dtype=float)
    processes = log_ratios.shape[-1]
    freedom = processes - 1
    mean = log_ratios.mean(-1)
    error = log_ratios.std(-1, ddof=1) / math.sqrt(processes)
    reach = special.stdtrit(freedom, 0.5 + confidence / 2) * error
    edge = math.log1p(margin)
    with np.errstate(divide="ignore", invalid="ignore"):  # no spread at all: infinitely sure, or exactly equal
        p_different = 2 * special.stdtr(freedom, -np.abs(mean) / error)
        p_same = special.stdtr(freedom, -(edge - np.abs(mean)) / error)
    return Evidence(mean, mean - reach, mean + reach, np.nan_to_num(p_different, nan=1.0), np.nan_to_num(p_same, nan=1.0))


def decide(mean: Any, p_different: Any, p_same: Any, margin: float, alpha: float, *, early: bool = False) -> np.ndarray:
    """Verdicts (faster, slower, same or undecided) for arrays of evidence; the one place where a verdict is made.

    At an `early` look only a difference of `EARLY_RATIO` and more is called.
    """
    mean, p_different, p_same = np.asarray(mean), np.asarray(p_different), np.asarray(p_same)
    if not alpha > 0:
        return np.full(mean.shape, UNDECIDED)
    floor = math.log(EARLY_RATIO) if early else FLOOR_SHARE * math.log1p(margin)
    different = (p_different <= alpha) & (np.abs(mean) > floor)
    return np.where((p_same <= alpha) & (not early), SAME, np.where(different, np.where(mean > 0, FASTER, SLOWER), UNDECIDED))


def compare_processes(
    reference: Sequence[ProcessSample], candidate: Sequence[ProcessSample], *, margin: float, alpha: float = ALPHA,
    confidence: float = CONFIDENCE, early: bool = False,
) -> Comparison:
    """Compare two architectures that ran in the same processes: reference[i] and candidate[i] are of one process, rounds by index.

    Only rounds both arms have are used. With clocks that differ or throttling the ratio and interval are kept and the verdict is invalid.
    Raises UsageError when the processes do not pair.
    """
    if len(reference) != len(candidate) or not reference:
        raise UsageError(
            f"the reference has {len(reference)} processes and the candidate {len(candidate)}; a comparison needs the same ones of both."
        )
    blank = Comparison(None, None, None, INVALID, "", len(reference), margin, alpha, confidence, early)
    pairs = []
    for index, (one, other) in enumerate(zip(reference, candidate, strict=True)):
        rounds = min(len(one.values), len(other.values))
        pair = np.array([one.values[:rounds], other.values[:rounds]], dtype=float)
        if not rounds or not np.isfinite(pair).all() or (pair <= 0).any():
            return dataclasses.replace(blank, reason=f"process {index} holds no rounds, or a time that is not a positive number.")
        pairs.append(pair)
    log_ratios = np.array([log_ratio(*pair) for pair in pairs])
    blank = dataclasses.replace(
        blank, ratio=math.exp(log_ratios.mean()), log_ratios=tuple(log_ratios.tolist()), notes=_notes(reference, candidate)
    )
    if len(pairs) == 1:
        compared = _one_process(blank, pairs[0])
    else:
        compared = _verdict(_with_evidence(blank, weigh(log_ratios, margin, confidence)))
    wrong = clock_fault(reference, candidate)
    return dataclasses.replace(compared, verdict=INVALID, reason=wrong) if wrong else compared


def log_ratio(reference: Sequence[float], candidate: Sequence[float]) -> float:
    """One process's log ratio of medians, reference over candidate."""
    return float(np.log(np.median(reference) / np.median(candidate)))


def judge_table(rows: Sequence[Comparison], *, alpha: float | None = None, control: Comparison | None = None) -> list[Comparison]:
    """The same rows with their verdicts made again from Holm-adjusted p values, so that `alpha` holds for the table as a whole.

    `control` is the A/A arm, the reference a second time: when it is called different, every row is invalid. Invalid rows and rows
    without p values stay as they are and do not count. `alpha` defaults to the rows' own.
    """
    judged = list(rows)
    counted = [index for index, row in enumerate(rows) if row.verdict != INVALID and row.p_different is not None]
    different = holm([rows[index].p_different for index in counted])
    same = holm([rows[index].p_same for index in counted])
    for index, p_different, p_same in zip(counted, different, same, strict=True):
        level = rows[index].alpha if alpha is None else alpha
        judged[index] = _verdict(dataclasses.replace(rows[index], holm_different=p_different, holm_same=p_same, alpha=level))
    wrong = control_fault(control) if control is not None else ""
    return [dataclasses.replace(row, verdict=INVALID, reason=wrong) for row in judged] if wrong else judged


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Scandinavian Journal of Statistics, 1979): all that stay at or below alpha may be rejected together."""
    adjusted = [1.0] * len(p_values)
    floor = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = floor
    return adjusted


def control_fault(control: Comparison) -> str:
    """One sentence when the A/A control arm makes the table unusable, else nothing."""
    if control.verdict in (FASTER, SLOWER):
        return (
            f"the control arm, the reference measured a second time, came out {_distance(control.ratio)} {control.verdict}: "
            "this machine tells identical models apart, so no row of this table can be trusted."
        )
    return f"the control arm is invalid: {control.reason}" if control.verdict == INVALID else ""


def clock_fault(reference: Sequence[ProcessSample], candidate: Sequence[ProcessSample]) -> str:
    """One sentence when the arms ran at clocks more than 1 % apart or more than 1 % of either's samples were throttled, else nothing.

    The clock gap is the median over processes of each process's ratio of median clocks. Readings that are missing decide nothing.
    """
    gaps = []
    for one, other in zip(reference, candidate, strict=True):
        clocks = [[clock for clock in arm.clocks_mhz if clock] for arm in (one, other)]
        if all(clocks):
            gaps.append(median(clocks[0]) / median(clocks[1]))
    gap = median(gaps) if gaps else 1.0
    if abs(gap - 1) > MAX_CLOCK_GAP:
        return f"the reference ran at {gap:.3f} times the candidate's clock; more than 1 % apart, their times cannot be compared."
    for arm, name in ((reference, "reference"), (candidate, "candidate")):
        bits = [bit for sample in arm for bit in sample.throttled if bit is not None]
        if bits and sum(bits) / len(bits) > MAX_THROTTLED_SHARE:
            return f"the driver throttled {sum(bits)} of the {name}'s {len(bits)} samples; more than 1 % makes its times unusable."
    return ""


@dataclass(frozen=True)
class LookPlan:
    """When to look at the processes done so far and at what level, so that looking often keeps the error rate.

    A look after every process from `first` to `last`. Half of alpha is kept for the last look. Of the other half, a first look before
    `USUAL_FIRST` processes takes half, so that it can see what is large; the rest is shared equally by those between. The levels add up to
    alpha, so by the union bound the chance of any false alarm at any look is at most alpha, whatever the dependence between looks. Looks
    before `USUAL_FIRST` processes are early: they call large differences only. Use: compare and judge with `alpha=plan.level(k)` and
    `early=plan.early(k)`, stop as soon as every row is decided.
    """

    first: int = 3
    last: int = 15
    alpha: float = ALPHA

    def __post_init__(self) -> None:
        if not 2 <= self.first <= self.last:
            raise UsageError(f"looks from {self.first} to {self.last} processes are not possible; the first needs 2, the last no fewer.")

    def level(self, processes: int, *, final: bool = False) -> float:
        """The level of the look after this many processes; 0 before the first. `final` spends the rest: out of time, whatever the data."""
        before = [self._share(each) for each in range(self.first, min(processes, self.last))]
        if final or processes >= self.last:
            return self.alpha - sum(before)
        return self._share(processes) if processes >= self.first else 0.0

    def _share(self, processes: int) -> float:
        """Of alpha, for a look before the last."""
        looks, half = self.last - self.first, self.alpha / 2
        own = half / 2 if self.first < USUAL_FIRST else half / looks
        return own if processes == self.first else (half - own) / (looks - 1)

    def early(self, processes: int, *, final: bool = False) -> bool:
        """Whether the look after this many processes is an early one; the last never is."""
        return processes < min(USUAL_FIRST, self.last) and not final


def all_decided(rows: Sequence[Comparison]) -> bool:
    """Whether another process could change nothing: every row is faster, slower or same."""
    return all(row.verdict in DECIDED for row in rows)


# Percentiles and proportions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Percentile:
    """A percentile, or None with the reason why so few values cannot give it."""

    value: float | None
    samples: int
    needed: int
    reason: str


def samples_needed(share: float, confidence: float = 0.99) -> int:
    """Values needed before the largest of them is above the `share` quantile with `confidence`: 459 for p99, 44 for p90."""
    return math.ceil(round(math.log(1 - confidence) / math.log(share), 9))


def percentile(values: Sequence[float], share: float, confidence: float = 0.99) -> Percentile:
    """The smallest value that at least `share` of the values do not exceed; refused where `samples_needed` is not reached."""
    needed, name = samples_needed(share, confidence), f"p{100 * share:g}"
    if len(values) < needed:
        return Percentile(None, len(values), needed, f"{name} needs {needed} values and there are {len(values)}.")
    return Percentile(float(sorted(values)[math.ceil(round(share * len(values), 9)) - 1]), len(values), needed, "")


def binomial_upper(events: int, trials: int, confidence: float = 0.95) -> float:
    """Exact one-sided upper bound of a proportion (Clopper and Pearson): 0 of 300 is at most 1.0 % at 95 %."""
    return 1.0 if events >= trials else float(special.betaincinv(events + 1, trials - events, confidence))


def binomial_lower(events: int, trials: int, confidence: float = 0.95) -> float:
    """Exact one-sided lower bound of a proportion."""
    return 0.0 if events <= 0 else float(special.betaincinv(events, trials - events + 1, 1 - confidence))


def in_process_interval(reference: Sequence[float], candidate: Sequence[float], confidence: float = 0.99) -> tuple[float, float] | None:
    """Sign-test interval of the median paired ratio inside one process; None where the rounds are too few for the confidence."""
    ratios = np.sort(np.asarray(reference, dtype=float) / np.asarray(candidate, dtype=float))
    rounds = len(ratios)
    below = int(np.sum(2 * special.bdtr(np.arange(rounds // 2), rounds, 0.5) <= 1 - confidence))
    return (float(ratios[below - 1]), float(ratios[rounds - below])) if below else None


# Words ----------------------------------------------------------------------------------------------------------------------------


def _with_evidence(row: Comparison, evidence: Evidence) -> Comparison:
    low, high = math.exp(evidence.low), math.exp(evidence.high)
    return dataclasses.replace(row, low=low, high=high, p_different=float(evidence.p_different), p_same=float(evidence.p_same))


def _verdict(row: Comparison) -> Comparison:
    """The row with its verdict and reason, from adjusted p values where it has them."""
    p_different = row.p_different if row.holm_different is None else row.holm_different
    p_same = row.p_same if row.holm_same is None else row.holm_same
    verdict = str(decide(math.log(row.ratio), p_different, p_same, row.margin, row.alpha, early=row.early))
    span = f"{100 * row.confidence:g} % interval of the ratio {row.low:.4g} to {row.high:.4g} over {row.processes} processes"
    edge = _distance(1 + row.margin)
    if verdict == SAME:
        reason = f"within {edge} (p {p_same:.2g}); {span}."
    elif verdict == UNDECIDED:
        reason = f"neither a difference nor equality within {edge} is shown at the {row.alpha:.2g} level; {span}; more processes narrow it."
    else:
        reason = f"{_distance(row.ratio)} {verdict} (p {p_different:.2g}); {span}."
    return dataclasses.replace(row, verdict=verdict, reason=reason)


def _one_process(row: Comparison, pair: np.ndarray) -> Comparison:
    interval = in_process_interval(*pair)
    within = f"; within this process the ratio is {interval[0]:.4g} to {interval[1]:.4g} (99 %)" if interval else ""
    reason = f"one process says nothing about the next start{within}; at least two processes are needed for an interval."
    low, high = interval or (None, None)
    return dataclasses.replace(row, verdict=UNDECIDED, reason=reason, in_process_low=low, in_process_high=high)


def _notes(reference: Sequence[ProcessSample], candidate: Sequence[ProcessSample]) -> tuple[str, ...]:
    restless = sum(not (one.steady and other.steady) for one, other in zip(reference, candidate, strict=True))
    return (f"{restless} of {len(reference)} processes were never steady while warming up.",) if restless else ()


def _distance(ratio: float) -> str:
    """How far a ratio is from 1, either way: in percent, as a factor from 1.5 on."""
    factor = max(ratio, 1 / ratio)
    return f"{factor:.3g}x" if factor >= 1.5 else f"{100 * (factor - 1):.2g} %"
