"""From what each picture of an evaluation counted to accuracy under any draw of pictures. numpy only.

Accuracy is the average precision of the best-scored pose of each entry over ten OKS thresholds (COCO's AP of one detection an entry): what
a user gets who asks for one person. Of an entry it needs the score of that pose and its OKS, which a record holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from humar_bench.training.average_precision import BEST_ROWS, Found, Matched
from humar_bench.training.picture_statistics import draws

DRAWS = 1000
DIGITS = 6  # of scores and OKS in a record
EVERY_SIZE = {"all": (0.0, float("inf"))}


def matched(score: np.ndarray, oks: np.ndarray) -> Matched:
    """One detection an entry: scores [I] and OKS [I] with the person meant."""
    entries = len(score)
    one = np.ones(entries)
    found = Found(np.arange(entries), np.asarray(score), one, np.asarray(oks), one, one.astype(bool), np.zeros(entries, bool))
    return Matched.of(found, EVERY_SIZE)


class Scores:
    """The evaluation of one run, from its record."""

    def __init__(self, measured: Mapping[str, Any]) -> None:
        self.matched = matched(np.array(measured["score"], float), np.array(measured["oks"], float))
        entries = len(measured["oks"])
        self.picture = np.array(measured["picture"]) if measured.get("picture") is not None else np.arange(entries)
        self.oks = float(np.mean(measured["oks"]))

    @property
    def pictures(self) -> int:
        """Different pictures."""
        return int(self.picture.max()) + 1

    def accuracy(self, weights: np.ndarray | None = None) -> float:
        """Average precision when picture p counts `weights[p]` times (once, where not given)."""
        return float(self.matched.values(BEST_ROWS[:1], None if weights is None else weights[self.picture])[0])

    def drawn(self, number: int = DRAWS, seed: int = 0) -> np.ndarray:
        """Accuracy under each of `number` draws of pictures [number]: draw b is the same for every run on these pictures."""
        return np.array([self.accuracy(weights) for weights in draws(self.pictures, number, seed)])
