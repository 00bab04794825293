"""Whether a series of times has settled: warm-up windows that agree, and the rounds from which on a process is steady."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

AGREE_SHARE = 0.05  # two warm-up windows agree when their medians differ by at most this share of the smaller
AGREE_SHARE_SINGLE = 0.10  # the same where a window is a single value, which has no median to calm it


def windows_agree(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two warm-up windows show the same speed: their medians differ by at most 5 %, by 10 % where one holds a single value."""
    low, high = sorted((median(first), median(second)))
    share = AGREE_SHARE if min(len(first), len(second)) > 1 else AGREE_SHARE_SINGLE
    return high - low <= share * low


@dataclass(frozen=True)
class SteadyState:
    """Where a series of times settles. `start` is the first round of its last level; not steady when that level is too short."""

    steady: bool
    start: int
    changes: tuple[int, ...]
    reason: str


STEP_SHARE = 0.02  # a smaller change of level is no change
STEP_SIGMAS = 5.0  # of the noise, correlation allowed for
LAG = 3  # rounds between values whose differences tell noise from correlated noise
MAX_CORRELATION = 0.8  # more than this is a change of level, not noise
STEADY_SHARE = 0.5  # the last level must hold at least this share of the rounds


def steady_state(values: Sequence[float]) -> SteadyState:
    """Levels by repeated splitting at the strongest change of mean (binary segmentation on logs, outliers clipped)."""
    logs = np.log(np.asarray(values, dtype=float))
    if len(logs) < 8:
        return SteadyState(False, 0, (), f"{len(logs)} rounds are too few to see a level; 8 are needed.")
    marginal, long_run = _noise(logs)
    smooth = _medians_of_five(logs)
    smooth[0] = logs[0]  # a first slow round is a level of its own, anywhere else one outlier is none
    clipped = np.clip(logs, smooth - 3 * marginal, smooth + 3 * marginal)
    changes = tuple(sorted(_splits(clipped, 0, long_run)))
    start = changes[-1] if changes else 0
    steady = len(logs) - start >= STEADY_SHARE * len(logs)
    if not steady:
        return SteadyState(False, start, changes, f"never steady: the level changed {len(changes)} times, last at round {start}.")
    return SteadyState(True, start, changes, f"steady from {f'round {start}' if changes else 'the start'}.")


def _medians_of_five(values: np.ndarray) -> np.ndarray:
    """The median of each value and its two neighbours on either side, of those that are there at the ends; for at least 5 values."""
    inner = np.median(np.lib.stride_tricks.sliding_window_view(values, 5), axis=1)
    first, last = ([np.median(part) for part in parts] for parts in ((values[:3], values[:4]), (values[-4:], values[-3:])))
    return np.concatenate((first, inner, last))


def _noise(logs: np.ndarray) -> tuple[float, float]:
    """Standard deviation of one value, and the one that a mean of correlated neighbours behaves as if it had; changes of level left out.

    From differences of neighbours and of values `LAG` apart, which of AR(1) noise have variances in the ratio (1 - r) / (1 - r^LAG).
    """
    steps = (logs[lag:] - logs[:-lag] for lag in (1, LAG))
    near, far = (1.4826 * float(np.median(np.abs(step - np.median(step)))) / math.sqrt(2) for step in steps)
    marginal = max(near, far, 1e-4)
    correlation = min(max(0.0, 1 - (near / marginal) ** 2), MAX_CORRELATION)
    return marginal, marginal * math.sqrt((1 + correlation) / (1 - correlation))


def _splits(logs: np.ndarray, offset: int, sigma: float) -> list[int]:
    rounds = len(logs)
    if rounds < 2:
        return []
    left = np.arange(1, rounds)
    sums = np.cumsum(logs)
    gap = np.abs(sums[:-1] / left - (sums[-1] - sums[:-1]) / (rounds - left))
    strength = gap * np.sqrt(left * (rounds - left) / rounds) / sigma
    at = int(np.argmax(strength))
    if strength[at] < STEP_SIGMAS or gap[at] < STEP_SHARE:
        return []
    cut = at + 1
    return [offset + cut, *_splits(logs[:cut], offset, sigma), *_splits(logs[cut:], offset + cut, sigma)]
