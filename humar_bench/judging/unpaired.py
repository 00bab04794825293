"""How far two saved runs are apart, with an interval: pure functions, no clock, no torch.

Two saved runs were not interleaved, so a process of one has no partner in the other: the interval of the difference of their means is
Welch's (Biometrika, 1947), over processes, on logarithms of times. It knows how much a restart changes, and nothing of what changed
between one run and the other for all its processes alike (a warmer machine, another neighbour); a ratio against a reference that was
measured in the same processes does not suffer from that. Processes that both runs hold, because one is a copy or a continuation of the
other, do pair, and then Student's t over their differences is right.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from humar_bench.judging.statistics import ALPHA, CONFIDENCE, decide

KEPT, EXCEEDED, UNDECIDED = "kept", "exceeded", "undecided"


@dataclass(frozen=True)
class Shift:
    """log(new time / old time), above 0 where the new one is slower. `error` and `freedom` are None where no interval can be had."""

    mean: float
    error: float | None
    freedom: float | None

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Both ends as logarithms; infinite where nothing is known."""
        if self.error is None:
            return -math.inf, math.inf
        reach = float(special.stdtrit(self.freedom, 0.5 + confidence / 2)) * self.error if self.error else 0.0
        return self.mean - reach, self.mean + reach

    def verdict(self, margin: float, alpha: float = ALPHA) -> str:
        """faster, slower, same or undecided, by the rule of `statistics.decide`."""
        if self.error is None:
            return UNDECIDED
        edge, distance = math.log1p(margin), abs(self.mean)
        if self.error:
            p_different = 2 * special.stdtr(self.freedom, -distance / self.error)
            p_same = special.stdtr(self.freedom, -(edge - distance) / self.error)
        else:
            p_different, p_same = float(not distance), float(distance >= edge)
        return str(decide(-self.mean, p_different, p_same, margin, alpha))

    def limit(self, share: float, *, judged: int = 1, alpha: float = ALPHA) -> str:
        """Whether a slowdown of `share` is exceeded, kept or undecided, where `judged` shifts are held against limits together.

        Exceeded: the lower bound at the level alpha / judged (Bonferroni) is above the limit, so that the chance of one false alarm among
        all is at most alpha. Kept: the upper end of the shown interval is at most the limit; all must be kept, so nothing is adjusted.
        """
        edge = math.log1p(share)
        if self.interval(1 - 2 * alpha / max(judged, 1))[0] > edge:
            return EXCEEDED
        return KEPT if self.interval()[1] <= edge else UNDECIDED


def unpaired(old: Sequence[float], new: Sequence[float]) -> Shift:
    """The shift between two runs' processes, one logarithm each; at least two on both sides for an interval."""
    mean = float(np.mean(new) - np.mean(old))
    if min(len(old), len(new)) < 2:
        return Shift(mean, None, None)
    parts = [float(np.var(each, ddof=1)) / len(each) for each in (old, new)]
    square = sum(parts)
    weights = sum(part**2 / (len(each) - 1) for part, each in zip(parts, (old, new), strict=True))
    return Shift(mean, math.sqrt(square), square**2 / weights if weights else float(len(old) + len(new) - 2))


def paired(differences: Sequence[float]) -> Shift:
    """The shift over processes that both runs hold. With one process there is no spread to be seen, and none is assumed."""
    count = len(differences)
    error = float(np.std(differences, ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    # What is left of a constant factor after rounding is no spread.
    shift = Shift(float(np.mean(differences)), error, float(max(count - 1, 1)))
    return shift if error > 1e-12 else dataclasses.replace(shift, error=0.0)
