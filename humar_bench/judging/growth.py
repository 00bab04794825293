"""How a cost grows with the work: cost = a * x^b fitted by least squares on logarithms, and the orders that theory and the published
description give. Pure functions and data; no torch, no clock.

A cost with a constant part (a decoder beside an encoder) grows with a lower exponent at first, so the fit over a range hides the order
it tends to; the exponent between the last two points comes nearer to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

CONFIDENCE = 0.95
CLAIM_MARGIN = 0.25  # a growth this far from a claimed order is another order


@dataclass(frozen=True)
class PowerLaw:
    """cost = coefficient * x^exponent. `low` and `high` bound the exponent at `CONFIDENCE`, Student's t over the points; None below three.

    `last` is the exponent between the last two points. For counts, which have no noise, the interval is about curvature alone.
    """

    exponent: float
    coefficient: float
    low: float | None
    high: float | None
    last: float
    points: int


def fit_power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw | None:
    """The law through (x, y); None where fewer than two different x have a cost above 0."""
    pairs = sorted((a, b) for a, b in zip(x, y, strict=True) if a > 0 and b is not None and b > 0 and math.isfinite(b))
    if len({a for a, _ in pairs}) < 2:
        return None
    u, v = np.log(np.array(pairs, dtype=float)).T
    spread = float(((u - u.mean()) ** 2).sum())
    constant = bool((v == v[0]).all())  # a parameter count, say: exactly 0, without the dust of rounding
    slope = 0.0 if constant else float(((u - u.mean()) * (v - v.mean())).sum() / spread)
    residuals = v * 0 if constant else v - v.mean() - slope * (u - u.mean())
    freedom = len(pairs) - 2
    low = high = None
    if freedom > 0:
        half = float(special.stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * math.sqrt(float((residuals**2).sum()) / freedom / spread)
        low, high = slope - half, slope + half
    before = max(index for index in range(len(u)) if u[index] < u[-1])
    last = float((v[-1] - v[before]) / (u[-1] - u[before]))
    return PowerLaw(slope, math.exp(float(v.mean() - slope * u.mean())), low, high, last, len(pairs))


@dataclass(frozen=True)
class Order:
    """What a cost tends to: x^exponent, and why in a few words."""

    exponent: float
    why: str

    def text(self, letter: str) -> str:
        """'O(N)', 'O(K^2)', 'O(1)'."""
        if not self.exponent:
            return "O(1)"
        return f"O({letter})" if self.exponent == 1 else f"O({letter}^{self.exponent:g})"


_CONSTANT = Order(0, "does not depend on it")
_SAMPLES = Order(1, "deformable attention: every token samples a fixed number of points")
_LINEAR = Order(1, "linear attention and convolutions")
_EACH = Order(1, "every instance does the same work")
_ACROSS = Order(2, "softmax attention across instances")
_GRAPH = Order(2, "attention among the keypoints of an instance")
_FUSED = Order(1, "fused attention keeps no map of all pairs")
_BIAS = Order(2, "a learned bias for each pair of keypoints")
_IMAGES = Order(1, "every image does the same work")

# Axis -> spec of an architecture -> cost -> the order it tends to, from the algorithm. Time is that of a machine that is busy all the time.
THEORY: dict[str, dict[str, dict[str, Order]]] = {
    "tokens": {
        "original": {"parameters": _CONSTANT, "operators": _CONSTANT, "matmul_flops": _SAMPLES, "peak_bytes": _SAMPLES, "time": _SAMPLES},
        "efficient": {"parameters": _CONSTANT, "operators": _CONSTANT, "matmul_flops": _LINEAR, "peak_bytes": _LINEAR, "time": _LINEAR},
    },
    "queries": {
        "original": {"parameters": _CONSTANT, "operators": _CONSTANT, "matmul_flops": _ACROSS, "peak_bytes": _ACROSS, "time": _ACROSS},
        "efficient": {"parameters": _CONSTANT, "operators": _CONSTANT, "matmul_flops": _EACH, "peak_bytes": _EACH, "time": _EACH},
    },
    "batch": {
        name: {"parameters": _CONSTANT, "operators": _CONSTANT, "matmul_flops": _IMAGES, "peak_bytes": _IMAGES, "time": _IMAGES}
        for name in ("original", "efficient")
    },
    "keypoints": {
        "original": {"parameters": _BIAS, "operators": _CONSTANT, "matmul_flops": _GRAPH, "peak_bytes": _GRAPH, "time": _GRAPH},
        "efficient": {"parameters": _BIAS, "operators": _CONSTANT, "matmul_flops": _GRAPH, "peak_bytes": _FUSED, "time": _GRAPH},
    },
}
SOFTMAX_ATTENTION = Order(2, "every token against every other")  # for comparison, over tokens
# What the published description says of the whole, by axis and architecture; it calls the original O(N^2), the replacement O(N).
CLAIMED: dict[str, dict[str, float]] = {"tokens": {"original": 2, "efficient": 1}}


def claim_holds(claimed: float, law: PowerLaw) -> bool:
    """Whether the growth at the end of the range is of the claimed order."""
    return abs(law.last - claimed) <= CLAIM_MARGIN
