"""Accuracy of many like arms after one budget, each against the default. Pure functions, no clock, no torch.

At an early budget curves still climb, so nothing is said of what a longer training would give: only which arm is ahead after these
pictures. Arms of one design are taken to spread alike over seeds, so their log accuracies give one variance together (the pooled error of
an analysis of variance): with two seeds each, twenty arms have it from twenty differences and not from one. Pictures are resampled as in
`retention.py`, and the parts are joined by Welch and Satterthwaite's formula.

Intervals are of each arm by itself. A verdict is made at the level divided by the number of arms (Bonferroni), so that one in twenty
studies of equal arms says that any of them differs.

Shapes: S runs of an arm, B draws of pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from humar_bench.judging.retention import Arm, half_width, picture_variance
from humar_bench.judging.statistics import CONFIDENCE, INVALID, UNDECIDED

MORE, LESS = "more accurate", "less accurate"


@dataclass(frozen=True)
class Early:
    """One arm: its accuracy (geometric mean over runs), and how many times the default's that is, each with both ends of its interval, None
    where there is none."""

    name: str
    runs: int
    accuracy: float
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    verdict: str = ""


def judge_early(default: Arm, others: Sequence[Arm], *, confidence: float = CONFIDENCE) -> dict[str, Early]:
    """The default and every other arm by name. An arm of which a run scored nothing is invalid and counts for no spread."""
    sound = [each for each in (default, *others) if _scored(each)]
    logs = [np.log(each.accuracy) for each in sound]
    freedom = sum(len(each) - 1 for each in logs)
    pooled = sum(float(((each - each.mean()) ** 2).sum()) for each in logs) / freedom if freedom else None
    level = 1 - (1 - confidence) / max(1, len(others))
    found = {}
    for each in (default, *others):
        if not _scored(each):
            found[each.name] = Early(each.name, len(each.accuracy), float(each.accuracy.mean()), verdict=INVALID)
            continue
        middle = float(np.log(each.accuracy).mean())
        low = high = ratio = ratio_low = ratio_high = None
        verdict = ""
        if pooled is not None:
            own = np.log(each.drawn).mean(-1).var(ddof=1)
            low, high = _ends(middle, [(pooled / len(each.accuracy), freedom), (own, len(each.drawn) - 1)], confidence)
        if each is not default and _scored(default):
            gap = middle - float(np.log(default.accuracy).mean())
            ratio, verdict = math.exp(gap), UNDECIDED
            if pooled is not None:
                parts = [(pooled * (1 / len(each.accuracy) + 1 / len(default.accuracy)), freedom),
                         (float(picture_variance(default.drawn, each.drawn)), len(each.drawn) - 1)]
                ratio_low, ratio_high = _ends(gap, parts, confidence)
                surely = _ends(gap, parts, level)
                verdict = MORE if surely[0] > 1 else LESS if surely[1] < 1 else UNDECIDED
        found[each.name] = Early(each.name, len(each.accuracy), math.exp(middle), low, high, ratio, ratio_low, ratio_high, verdict)
    return found


def _scored(arm: Arm) -> bool:
    every = np.concatenate((arm.accuracy, arm.drawn.ravel()))
    return bool(np.isfinite(every).all() and (every > 0).all())


def _ends(middle: float, parts: Sequence[tuple[float, float]], confidence: float) -> tuple[float, float]:
    """Both ends of the interval around a log, as what it is the log of."""
    reach = float(half_width(parts, confidence))
    return math.exp(middle - reach), math.exp(middle + reach)
