"""Retention: what share of the reference's accuracy another architecture keeps, and how sure that is. Pure functions, no clock, no torch.

Accuracy is any score above 0 on pictures that all runs share, such as average precision. A run is one training with one seed. Retention is
the geometric mean over a candidate's runs divided by that over the reference's.

Two things make it uncertain: another seed would have trained other weights, and other pictures would have given other scores. The error of
the log ratio is the root of three parts: variance over the candidate's runs / their number, the same of the reference's, and the variance
over draws of pictures (bootstrap, the same draws for all runs, so what makes a picture hard for everybody cancels). The interval is
Student's t with Welch and Satterthwaite's degrees of freedom of that sum ("The generalization of Student's problem", 1947). Resampling
three seeds instead (the plain hierarchical bootstrap) has two thirds of their variance and none of t's tails: its 95 % interval holds in
much fewer cases (docs/accuracy.md). What a run gains on these very pictures by chance is in the first and the third part, so the interval
is rather too wide than too narrow. Runs of one seed share their data order; that is not used, which also errs on the wide side.

Verdicts, with a margin such as 0.95:
  keeps      the whole interval is at or above the margin
  loses      the whole interval is below it
  undecided  neither; also whenever an arm has a single run
  invalid    the runs do not answer the question: see `fault`

Shapes: S runs of an arm, B draws of pictures, ... trials.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from humar_bench.errors import UsageError
from humar_bench.judging.statistics import CONFIDENCE, INVALID, UNDECIDED
from humar_bench.table import percent

KEEPS, LOSES = "keeps", "loses"
MARGIN = 0.95
LAST_SHARE, MOST_GAIN = 0.2, 0.03  # the last fifth of the schedule adds at most 3 % of the accuracy, or the curve still climbs


@dataclass(frozen=True)
class Arm:
    """The finished runs of one architecture, evaluated on the same pictures as those of every other arm."""

    name: str
    accuracy: np.ndarray  # [S] at the end of the schedule
    before: np.ndarray  # [S] when the last fifth of the schedule began
    drawn: np.ndarray  # [B, S] at the end, under each draw of pictures; draw b is the same for all arms
    rate_at_edge: bool = False  # the learning rate chosen is the lowest or the highest that was tried

    def __post_init__(self) -> None:
        runs = len(self.accuracy)
        if not runs or self.before.shape != (runs,) or self.drawn.ndim != 2 or self.drawn.shape[1] != runs:
            raise UsageError(f"{self.name} has {runs} runs, {self.before.shape} earlier values, {self.drawn.shape} draws; make them fit.")

    @property
    def gain(self) -> float:
        """Share of the accuracy at the end that the last fifth of the schedule added."""
        return float(1 - self.before.mean() / self.accuracy.mean()) if self.accuracy.mean() > 0 else math.inf

    def plus(self, other: Arm) -> Arm:
        """The runs of both, for more of the same architecture."""
        return dataclasses.replace(
            self, accuracy=np.concatenate((self.accuracy, other.accuracy)), before=np.concatenate((self.before, other.before)),
            drawn=np.concatenate((self.drawn, other.drawn), axis=1), rate_at_edge=self.rate_at_edge or other.rate_at_edge,
        )


class Evidence(NamedTuple):
    """Arrays over trials: the log of the retention, its interval, and the two standard errors it is made of."""

    log_ratio: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seed_error: np.ndarray
    picture_error: np.ndarray


def weigh(
    reference: np.ndarray, candidate: np.ndarray, picture_variance: Any, *, draws: int, confidence: float = CONFIDENCE
) -> Evidence:
    """The evidence in the accuracies of the reference's runs (..., S) and the candidate's (..., S'), at least two of each.

    `picture_variance` (...) is that of the log ratio over `draws` draws of pictures.
    """
    logs = [np.log(np.asarray(each, dtype=float)) for each in (reference, candidate)]
    parts = [(each.var(-1, ddof=1) / each.shape[-1], each.shape[-1] - 1) for each in logs]
    parts.append((np.asarray(picture_variance, dtype=float), draws - 1))
    reach = half_width(parts, confidence)
    log_ratio = logs[1].mean(-1) - logs[0].mean(-1)
    return Evidence(log_ratio, log_ratio - reach, log_ratio + reach, np.sqrt(parts[0][0] + parts[1][0]), np.sqrt(parts[2][0]))


def half_width(parts: Sequence[tuple[Any, float]], confidence: float = CONFIDENCE) -> np.ndarray:
    """Half of an interval around a sum whose variance is estimated in parts, each with its degrees of freedom (Satterthwaite 1946)."""
    variance = sum(np.asarray(part, float) for part, _ in parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = variance**2 / sum(np.asarray(part, float) ** 2 / own for part, own in parts)
    return special.stdtrit(np.nan_to_num(freedom, nan=1.0), 0.5 + confidence / 2) * np.sqrt(variance)


def picture_variance(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Variance of the log ratio over draws of pictures: accuracies under each draw, (..., B, S) and (..., B, S') -> (...)."""
    ratio = np.log(candidate).mean(-1) - np.log(reference).mean(-1)
    return ratio.var(-1, ddof=1)


def decide(low: Any, high: Any, margin: float) -> np.ndarray:
    """Verdicts for arrays of intervals of the log retention; the one place where a verdict is made."""
    edge = math.log(margin)
    return np.where(np.asarray(low) >= edge, KEEPS, np.where(np.asarray(high) < edge, LOSES, UNDECIDED))


@dataclass(frozen=True)
class Retention:
    """A candidate against the reference. `low` and `high` are None where there is no interval.

    `seed_error` and `picture_error` are the standard errors of the log ratio by seeds and by pictures.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    verdict: str
    reason: str
    runs: int
    reference_runs: int
    margin: float
    confidence: float = CONFIDENCE
    seed_error: float | None = None
    picture_error: float | None = None


def fault(arm: Arm, *, floor: float, is_reference: bool) -> str:
    """One sentence when an arm's runs cannot answer what the architecture keeps, else nothing.

    `floor` is what the mean pose at the right place and scale scores: below it nothing about poses was learned.
    """
    mean = float(arm.accuracy.mean())
    scored = np.concatenate((arm.accuracy, arm.drawn.ravel()))
    if not np.isfinite(scored).all() or (scored <= 0).any():
        return f"a run of {arm.name} scored 0 or no number; train longer or on easier people."
    if mean < floor:
        return (
            f"{arm.name} scored {mean:.3f}, below {floor:.3f}, which the mean pose at the right place and scale scores: it has learned "
            "nothing about poses."
        )
    if arm.gain > MOST_GAIN:
        return (
            f"{arm.name} was still climbing: the last fifth of the schedule added {percent(arm.gain)} of its accuracy, more than "
            f"{percent(MOST_GAIN)}; train longer."
        )
    if is_reference and arm.rate_at_edge:
        return f"the learning rate of the reference {arm.name} lies at the edge of its grid, so a better one may lie beyond; widen it."
    return ""


def judge(
    reference: Arm, candidate: Arm, *, margin: float = MARGIN, floor: float = 0.0, confidence: float = CONFIDENCE
) -> Retention:
    """What the candidate keeps of the reference's accuracy, with its verdict."""
    blank = Retention(candidate.name, None, None, None, INVALID, "", len(candidate.accuracy), len(reference.accuracy), margin, confidence)
    wrong = fault(reference, floor=floor, is_reference=True) or fault(candidate, floor=floor, is_reference=False)
    if min(reference.accuracy.min(), candidate.accuracy.min()) <= 0:
        return dataclasses.replace(blank, reason=wrong)
    blank = dataclasses.replace(blank, value=float(np.exp(np.log(candidate.accuracy).mean() - np.log(reference.accuracy).mean())))
    if wrong:  # the interval would be read as an answer
        return dataclasses.replace(blank, reason=wrong)
    if min(blank.runs, blank.reference_runs) < 2:
        reason = "one run says nothing about another seed; at least two of each arm are needed for an interval."
        return dataclasses.replace(blank, verdict=UNDECIDED, reason=reason)
    variance = picture_variance(reference.drawn, candidate.drawn)
    evidence = weigh(reference.accuracy, candidate.accuracy, variance, draws=len(reference.drawn), confidence=confidence)
    verdict = str(decide(evidence.low, evidence.high, margin))
    low, high = math.exp(evidence.low), math.exp(evidence.high)
    found = dataclasses.replace(
        blank, low=low, high=high, verdict=verdict, seed_error=float(evidence.seed_error), picture_error=float(evidence.picture_error)
    )
    return dataclasses.replace(found, reason=_reason(found))


def _reason(found: Retention) -> str:
    span = f"{100 * found.confidence:g} % interval {100 * found.low:.1f} to {100 * found.high:.1f} %"
    if found.verdict == UNDECIDED:
        more = "seeds" if found.seed_error >= found.picture_error else "pictures"
        return f"{span}, and the margin of {percent(found.margin)} lies in it; more {more} narrow it most."
    return f"{span}, all of it {'at or above' if found.verdict == KEEPS else 'below'} {percent(found.margin)}."


def judge_study(
    reference: Arm, candidates: Sequence[Arm], control: Arm, *, margin: float = MARGIN, floor: float = 0.0, confidence: float = CONFIDENCE
) -> dict[str, Retention]:
    """The control (the reference again with other seeds) against the reference, then every candidate against the runs of both.

    A control that is invalid or loses makes every row invalid: then equal architectures are told apart.
    """
    limits: Mapping[str, float] = {"margin": margin, "floor": floor, "confidence": confidence}
    again = judge(reference, control, **limits)
    found = {control.name: again}
    wrong = ""
    if again.verdict == LOSES:
        wrong = f"the control, the reference trained again with other seeds, {again.verdict}: equal architectures are told apart here."
    elif again.verdict == INVALID:
        wrong = again.reason
    for each in candidates:
        own = judge(reference.plus(control), each, **limits)
        found[each.name] = dataclasses.replace(own, verdict=INVALID, reason=wrong, low=None, high=None) if wrong else own
    return found


def chosen_rate(accuracy: Mapping[float, float], error: Callable[[float], float] = lambda rate: 0.0) -> tuple[float, bool]:
    """Of a grid, learning rate -> accuracy: the rate to train with, and whether the best one lies at the grid's edge.

    That is the lowest of the rates next to the best that are within one standard `error` of it (Breiman et al. 1984, section 3.4.3): a
    difference that other pictures would turn over is no reason to train faster, and what is too fast shows late. A run that scored no
    number counts as 0. Raises UsageError for an empty grid.
    """
    if not accuracy:
        raise UsageError("the grid of learning rates is empty; name at least three.")
    rates, scored = sorted(accuracy), {rate: each if math.isfinite(each) else 0.0 for rate, each in accuracy.items()}
    at = best = max(range(len(rates)), key=lambda i: (scored[rates[i]], -rates[i]))
    least = scored[rates[best]] - error(rates[best])
    while at and scored[rates[at - 1]] >= least:
        at -= 1
    return rates[at], best in (0, len(rates) - 1)
