"""Verdicts from raw times: pure functions, no clock, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

AGREE_SHARE = 0.05  # two warm-up windows agree when their medians differ by at most this share of the smaller
AGREE_SHARE_SINGLE = 0.10  # the same where a window is a single value, which has no median to calm it


def windows_agree(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two warm-up windows show the same speed: their medians differ by at most 5 %, by 10 % where one holds a single value."""
    low, high = sorted((median(first), median(second)))
    share = AGREE_SHARE if min(len(first), len(second)) > 1 else AGREE_SHARE_SINGLE
    return high - low <= share * low
