"""Which designs no other one beats, and which few of many stand for all. numpy only.

Shapes: N designs, M costs, each better when lower.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def on_front(costs: np.ndarray) -> np.ndarray:
    """[N, M] -> [N] bool: no other design costs at most as much in everything and less in something. Equal ones do not beat each other."""
    costs = np.asarray(costs, float)
    kept = np.ones(len(costs), bool)
    for at in np.argsort(costs.sum(1)):  # what costs little beats most
        if kept[at]:
            beaten = (costs[at] <= costs).all(1) & (costs[at] < costs).any(1)
            kept &= ~beaten
    return kept


def ranks(costs: np.ndarray) -> np.ndarray:
    """[N, M] -> [N]: 0 on the front, 1 on the front of those that are left, and so on (non-dominated sorting, Deb et al. 2002)."""
    costs = np.asarray(costs, float)
    found, left, rank = np.zeros(len(costs), int), np.arange(len(costs)), 0
    while len(left):
        front = on_front(costs[left])
        found[left[front]] = rank
        left, rank = left[~front], rank + 1
    return found


def spread(points: np.ndarray, number: int, first: Sequence[int] = ()) -> list[int]:
    """`number` of N points [N, M] of which each next one is the farthest from those before (Gonzalez 1985), `first` before all; distances
    are of logs, every column over its range. Fewer where there are no more."""
    logs = np.log(np.maximum(np.asarray(points, float), 1e-12))
    width = np.ptp(logs, axis=0) if len(logs) else np.ones(0)
    scaled = (logs - logs.min(0)) / np.where(width > 0, width, 1.0) if len(logs) else logs
    chosen = list(first)
    if not chosen and len(points):
        chosen = [int(np.argmin(((scaled - 0.5) ** 2).sum(1)))]  # from the middle out
    while len(chosen) < min(number, len(points)):
        nearest = np.min([((scaled - scaled[each]) ** 2).sum(1) for each in chosen], axis=0)
        nearest[chosen] = -1.0
        chosen.append(int(np.argmax(nearest)))
    return chosen[:max(number, len(first))]


def rungs(designs: int, pictures: int, whole_steps: int = 1) -> list[tuple[int, int]]:
    """(designs, pictures of each) of every rung of successive halving (Jamieson & Talwalkar 2016): each next one has half of the designs,
    two at least, and twice the pictures, all of them at the end. Pictures are whole steps, one at least."""
    counts = [designs]
    while counts[-1] > 2:
        counts.append((counts[-1] + 1) // 2)
    budgets = [pictures // 2 ** (len(counts) - 1 - at) for at in range(len(counts))]
    return [(count, max(whole_steps, budget // whole_steps * whole_steps)) for count, budget in zip(counts, budgets, strict=True)]


def better_half(cost: np.ndarray, accuracy: np.ndarray, number: int) -> list[int]:
    """The `number` of N designs that go on: by their rank in cost and accuracy together, the more accurate first."""
    rank = ranks(np.stack((cost, -accuracy), axis=1))
    return [int(each) for each in np.lexsort((cost, -accuracy, rank))[:number]]
