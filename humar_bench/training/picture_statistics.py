"""What an evaluation keeps of every entry, so that any metric of any resample of pictures is a few sums: bootstrap intervals. numpy only.

Several entries may show one picture (RefHuman has an entry for each person and sentence); they are drawn together. Two models evaluated on
the same entries are compared in pairs when both are given the weights of the same `resamples`.

Shapes: I entries, F metrics that are a ratio of sums over entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from humar_bench.errors import UsageError
from humar_bench.training.average_precision import ABSENT, BEST_ROWS, COCO_ROWS, Matched

BEST = "best"  # of the best-scored query


class Estimate(NamedTuple):
    """A metric with its bootstrap interval; None where there is nothing to measure."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class PictureStatistics:
    """The sufficient statistics of every entry.

    Metrics are named `bbox/AP` ... (COCO's table of that type), `best/AP`, `best/AP50`, `best/AP75` (OKS of the best-scored query) and by
    `ratios` (`best/mean OKS`, ...), whose value is the sum of `above` over the sum of `below`.
    """

    picture: np.ndarray  # [I] number of the picture an entry shows
    coco: dict[str, Matched]  # by type: bbox, segm, keypoints
    ratios: tuple[str, ...]  # [F]
    above: np.ndarray  # [I, F]
    below: np.ndarray  # [I, F]

    @property
    def names(self) -> tuple[str, ...]:
        """Every metric there is."""
        best = [f"{BEST}/{row.name}" for row in BEST_ROWS] if "keypoints" in self.coco else []
        tables = [f"{kind}/{row.name}" for kind in self.coco for row in COCO_ROWS[kind]]
        return (*best, *self.ratios, *tables)

    @property
    def pictures(self) -> int:
        """Different pictures."""
        return int(self.picture.max(initial=-1)) + 1

    def values(self, names: Sequence[str] | None = None, weights: np.ndarray | None = None) -> np.ndarray:
        """The metrics when picture p counts `weights[p]` times (once, where not given); NaN where there is nothing to measure."""
        names = self.names if names is None else names
        of_entry = np.ones(len(self.picture)) if weights is None else np.asarray(weights, dtype=float)[self.picture]
        found = {}
        for kind, rows in ((BEST, BEST_ROWS), *((kind, COCO_ROWS[kind]) for kind in self.coco)):
            asked = [row for row in rows if f"{kind}/{row.name}" in names]
            if asked and (matched := self.coco.get("keypoints" if kind == BEST else kind)):
                values = matched.values(asked, of_entry)
                values = np.where(values == ABSENT, np.nan, values)
                found |= {f"{kind}/{row.name}": value for row, value in zip(asked, values, strict=True)}
        with np.errstate(divide="ignore", invalid="ignore"):
            found |= dict(zip(self.ratios, (of_entry @ self.above) / (of_entry @ self.below), strict=True))
        if unknown := [name for name in names if name not in found]:
            raise UsageError(f"there is no metric {unknown[0]!r} here; choose from {', '.join(self.names)}.")
        return np.array([found[name] for name in names])

    def estimates(
        self, names: Sequence[str] | None = None, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
    ) -> dict[str, Estimate]:
        """Every metric with its percentile interval over `resamples` draws of pictures (0: no interval)."""
        names = self.names if names is None else tuple(names)
        values = self.values(names)
        drawn = np.array([self.values(names, weights) for weights in draws(self.pictures, resamples, seed)])
        found = {}
        for at, (name, value) in enumerate(zip(names, values, strict=True)):
            of_name = drawn[:, at][np.isfinite(drawn[:, at])] if len(drawn) else drawn
            bounds = np.quantile(of_name, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist() if len(of_name) else (None, None)
            found[name] = Estimate(float(value), *bounds) if np.isfinite(value) else Estimate(None)
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays without objects, for `np.savez`; back by `of_arrays`."""
        tables = {f"{kind}/{name}": value for kind, matched in self.coco.items() for name, value in matched.arrays().items()}
        return {"picture": self.picture, "ratios": np.array(self.ratios), "above": self.above, "below": self.below, **tables}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> PictureStatistics:
        """Read what `arrays` gave."""
        kinds = [kind for kind in COCO_ROWS if f"{kind}/entry" in arrays]
        coco = {
            kind: Matched.of_arrays({name.removeprefix(f"{kind}/"): arrays[name] for name in arrays if name.startswith(f"{kind}/")})
            for kind in kinds
        }
        return cls(arrays["picture"], coco, tuple(map(str, arrays["ratios"])), arrays["above"], arrays["below"])


def draws(pictures: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each picture [pictures] is drawn in each of `resamples` draws with replacement; the same for the same seed."""
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(random.integers(pictures, size=pictures), minlength=pictures)
