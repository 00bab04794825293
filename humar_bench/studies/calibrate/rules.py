"""Decision rules of other tools, replayed on raw times: pure functions, numpy and scipy, no clock, no torch.

Each rule is given what its tool would have: the times of so many processes of the reference and of so many other processes of the
candidate, because none of these tools times both in turn inside one process. It says +1 (the candidate is faster), -1 (slower) or 0
(no call). The rules are simplified to their decision, and follow the code or documentation of each tool; where a tool takes fewer times
than a process here holds, the rule is given all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

Times = Sequence[np.ndarray]  # of one side: one array of times a process
Decide = Callable[[Times, Times], int]
FASTER, NO_CALL, SLOWER = 1, 0, -1


@dataclass(frozen=True)
class Rule:
    """`processes` is how many a side the tool uses; `where` names the tools that decide like this."""

    name: str
    where: str
    processes: int
    decide: Decide


def beyond(change: float, limit: float) -> int:
    """The call for a relative change of time: +0.06 beyond 0.05 is slower."""
    if change > limit:
        return SLOWER
    return FASTER if change < -limit else NO_CALL


def _pooled(times: Times) -> np.ndarray:
    return np.concatenate([np.asarray(each, dtype=float) for each in times])


def _chunk_means(times: Times, chunks: int) -> np.ndarray:
    """So many values a process, each the mean of an unbroken stretch of its times."""
    return np.array([part.mean() for each in times for part in np.array_split(np.asarray(each, dtype=float), chunks) if len(part)])


def _centre(centre: Callable[[np.ndarray], float], limit: float) -> Decide:
    def decide(reference: Times, candidate: Times) -> int:
        return beyond(float(centre(_pooled(candidate)) / centre(_pooled(reference))) - 1, limit)

    return decide


def higher_fps(reference: Times, candidate: Times, limit: float = 0.01) -> int:
    """Runs divided by total seconds; the higher number wins when it is more than 1 % higher."""
    fps_reference, fps_candidate = 1 / _pooled(reference).mean(), 1 / _pooled(candidate).mean()
    if fps_candidate > (1 + limit) * fps_reference:
        return FASTER
    return SLOWER if fps_reference > (1 + limit) * fps_candidate else NO_CALL


def pooled_t(reference: Times, candidate: Times, values: int = 3, alpha: float = 0.05) -> int:
    """Student's t over all values of all processes as if each were independent."""
    return _by_t(_chunk_means(reference, values), _chunk_means(candidate, values), alpha, equal_variance=True)


def welch_on_medians(reference: Times, candidate: Times, alpha: float = 0.05) -> int:
    """Welch's t over one median a process: the right unit, not paired."""
    sides = [np.array([np.median(each) for each in side]) for side in (reference, candidate)]
    return _by_t(*sides, alpha, equal_variance=False)


def _by_t(reference: np.ndarray, candidate: np.ndarray, alpha: float, *, equal_variance: bool) -> int:
    """Two-sided t test of two means; values without any spread differ where their means do."""
    n, m = len(reference), len(candidate)
    v, w = reference.var(ddof=1), candidate.var(ddof=1)
    gap = float(candidate.mean() - reference.mean())
    if v + w == 0:
        return beyond(gap, 0.0)
    if equal_variance:
        freedom = n + m - 2
        error = math.sqrt(((n - 1) * v + (m - 1) * w) / freedom * (1 / n + 1 / m))
    else:
        error = math.sqrt(v / n + w / m)
        freedom = error**4 / ((v / n) ** 2 / (n - 1) + (w / m) ** 2 / (m - 1))
    p = 2 * special.stdtr(freedom, -abs(gap) / error)
    return beyond(gap, 0.0) if p < alpha else NO_CALL


def mann_whitney(reference: Times, candidate: Times, values: int = 5, p_below: float = 0.002, factor: float = 1.1) -> int:
    """Mann-Whitney's U over all values, and medians more than a factor of 1.1 apart."""
    one, other = _chunk_means(reference, values), _chunk_means(candidate, values)
    change = np.median(other) / np.median(one)
    if max(change, 1 / change) <= factor:
        return NO_CALL
    return beyond(float(change) - 1, 0.0) if stats.mannwhitneyu(one, other).pvalue < p_below else NO_CALL


def ratio_and_sigma(reference: Times, candidate: Times) -> int:
    """Ratio of means, one run a process; a call when the ratio plus or minus its propagated sigma leaves out 1."""
    one, other = _chunk_means(reference, 1), _chunk_means(candidate, 1)
    ratio = other.mean() / one.mean()
    sigma = ratio * math.hypot(one.std(ddof=1) / one.mean(), other.std(ddof=1) / other.mean())
    return beyond(float(ratio - 1), float(sigma))


def disjoint_quartiles(reference: Times, candidate: Times, gap: float = 0.005) -> int:
    """[min, third quartile] of both sides do not overlap and are at least 0.5 % apart."""
    (low, high), (other_low, other_high) = [np.percentile(_pooled(side), (0, 75)) for side in (reference, candidate)]
    if other_low >= high * (1 + gap):
        return SLOWER
    return FASTER if low >= other_high * (1 + gap) else NO_CALL


def least_noise(reference: Times, candidate: Times) -> int:
    """Means further apart than the smaller of both relative standard deviations."""
    one, other = _pooled(reference), _pooled(candidate)
    noise = min(one.std(ddof=1) / one.mean(), other.std(ddof=1) / other.mean())
    return beyond(float(other.mean() / one.mean() - 1), float(noise))


RULES = (
    Rule("higher FPS by > 1 %", "tables of timm, mmdet, RT-DETR", 1, higher_fps),
    Rule("mean +-5 %", "pytest-benchmark mean:5%", 1, _centre(np.mean, 0.05)),
    Rule("min +-5 %", "pytest-benchmark min:5%", 1, _centre(np.min, 0.05)),
    Rule("median +-7 %", "torchbench", 1, _centre(np.median, 0.07)),
    Rule("[min, Q3] apart by 0.5 %", "nvbench robust (time part)", 1, disjoint_quartiles),
    Rule("means further than noise", "nvbench legacy", 1, least_noise),
    Rule("Mann-Whitney .002 and x1.1", "asv, not interleaved", 2, mann_whitney),
    Rule("pooled t .05, 3 values each", "pyperf", 10, pooled_t),
    Rule("ratio +- sigma leaves out 1", "hyperfine, as it is read", 10, ratio_and_sigma),
    Rule("Welch's t .05 on medians", "unpaired, right unit", 10, welch_on_medians),
)
