"""Average precision of any resample of a data set, from what each entry's detections matched. numpy only.

COCO's evaluation has two parts: how much a detection overlaps a person (slow, the library's), and the precision over recall of all
detections by score. The second needs of an entry only its scores and which of them matched. So an entry that a bootstrap draws w times is
an entry of weight w, and a resample costs sums instead of an evaluation. Equal to evaluating the resample with the library: within a run
of copies precision falls at wrong detections and rises at right ones, and COCO reads the largest precision at or beyond a recall, so the
end of the run decides. (Copies stand beside each other here. With equal scores inside one entry COCO's order of the copies is another,
and so may be the last digits.)

Shapes: I entries, D detections of all entries, T thresholds of IoU or OKS, A area ranges.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
ABSENT = -1.0  # COCO's value where there is nobody to find


class Metric(NamedTuple):
    """One row of COCO's table: average precision or recall, over thresholds or at one, in an area range, of so many detections."""

    name: str
    kind: str  # "AP" or "AR"
    threshold: float | None
    area: str
    most: int


def _rows(most: Sequence[int], areas: Sequence[str]) -> tuple[Metric, ...]:
    last = most[-1]
    precision = [Metric(name, "AP", at, "all", last) for name, at in (("AP", None), ("AP50", 0.5), ("AP75", 0.75))]
    precision += [Metric(f"AP {area}", "AP", None, area, last) for area in areas]
    if len(most) > 1:
        recall = [Metric(f"AR@{number}", "AR", None, "all", number) for number in most]
    else:
        recall = [Metric(name, "AR", at, "all", last) for name, at in (("AR", None), ("AR50", 0.5), ("AR75", 0.75))]
    return (*precision, *recall, *(Metric(f"AR {area}", "AR", None, area, last) for area in areas))


COCO_ROWS = {  # in the order of COCO's own stats
    "bbox": _rows((1, 10, 100), ("small", "medium", "large")),
    "segm": _rows((1, 10, 100), ("small", "medium", "large")),
    "keypoints": _rows((20,), ("medium", "large")),
}
BEST_ROWS = tuple(Metric(name, "AP", at, "all", 1) for name, at in (("AP", None), ("AP50", 0.5), ("AP75", 0.75)))


@dataclass(frozen=True)
class Found:
    """Detections of all entries beside the one person of each. They stand by entry, an entry's best score first."""

    entry: np.ndarray  # [D] number of the entry
    score: np.ndarray  # [D]
    size: np.ndarray  # [D] area in square pixels
    overlap: np.ndarray  # [D] IoU or OKS with the entry's person; below 0 where there is none
    person_size: np.ndarray  # [I] area in square pixels
    person_counts: np.ndarray  # [I] bool; false: nobody, or somebody whom COCO ignores
    crowd: np.ndarray  # [I] bool: any number of detections may match


@dataclass(frozen=True)
class Matched:
    """What the detections of all entries matched, one type of evaluation."""

    areas: tuple[str, ...]  # [A]
    entry: np.ndarray  # [D] number of the entry
    rank: np.ndarray  # [D] place among the entry's detections
    score: np.ndarray  # [D]
    matched: np.ndarray  # [T, D] bool
    ignored: np.ndarray  # [A, T, D] bool
    people: np.ndarray  # [A, I] people that count

    @classmethod
    def of(cls, found: Found, areas: Mapping[str, tuple[float, float]]) -> Matched:
        """Match as COCO does: at each threshold the first detection that overlaps the person enough.

        Somebody outside an area range is ignored with what matched him, a detection outside it where it matched nobody.
        """
        numbers = np.bincount(found.entry, minlength=len(found.person_size))
        place = np.arange(len(found.entry))
        rank = place - (np.cumsum(numbers) - numbers)[found.entry]
        enough = found.overlap >= np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]  # [T, D]
        first = np.full((len(THRESHOLDS), len(numbers)), len(place))
        for at in range(len(THRESHOLDS)):
            np.minimum.at(first[at], found.entry[enough[at]], place[enough[at]])
        matched = enough & ((place == first[:, found.entry]) | found.crowd[found.entry])
        ignored, people = [], []
        for low, high in areas.values():
            counts = found.person_counts & (found.person_size >= low) & (found.person_size <= high)
            outside = (found.size < low) | (found.size > high)
            ignored.append(np.where(matched, ~counts[found.entry], outside))
            people.append(counts)
        return cls(
            areas=tuple(areas),
            entry=found.entry,
            rank=rank,
            score=found.score,
            matched=matched,
            ignored=np.stack(ignored),
            people=np.stack(people).astype(int),
        )

    @property
    def entries(self) -> int:
        """I."""
        return self.people.shape[1]

    @cached_property
    def _by_score(self) -> np.ndarray:
        """The order of all detections: best score first, equal scores in the order of the entries, as COCO sorts."""
        return np.argsort(-self.score, kind="mergesort")

    @cached_property
    def _curves(self) -> dict[tuple[str, int], list[_Curve]]:
        return {}

    def _curves_of(self, area: str, most: int) -> list[_Curve]:
        """What precision over recall needs, one for each threshold; made once."""
        if (area, most) not in self._curves:
            a = self.areas.index(area)
            order = self._by_score[self.rank[self._by_score] < most]
            matched, counted = self.matched[:, order], ~self.ignored[a][:, order]
            curves: list[_Curve] = []
            for t in range(len(THRESHOLDS)):
                alike = t > 0 and np.array_equal(counted[t], counted[t - 1])  # such thresholds share one array, and one sum over it
                entry = curves[-1].entry if alike else self.entry[order[counted[t]]]
                right = np.flatnonzero(matched[t][counted[t]])
                curves.append(_Curve(entry, right, entry[right]))
            self._curves[area, most] = curves
        return self._curves[area, most]

    def values(self, rows: Sequence[Metric], weights: np.ndarray | None = None) -> np.ndarray:
        """The rows' values when every entry counts `weights` [I] times (once, where not given); -1 where there is nobody to find."""
        weights = np.ones(self.entries) if weights is None else np.asarray(weights, dtype=float)
        people = self.people @ weights
        made: dict[tuple[str, str, int], np.ndarray] = {}
        found = []
        for row in rows:
            key = (row.kind, row.area, row.most)
            number = people[self.areas.index(row.area)]
            if key not in made and number > 0:
                curves = self._curves_of(row.area, row.most)
                made[key] = _precisions(curves, weights, number) if row.kind == "AP" else _recalls(curves, weights, number)
            found.append(ABSENT if number == 0 else _at(made[key], row.threshold))
        return np.array(found)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays, for `np.savez`."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> Matched:
        """Back from `arrays`."""
        return cls(**{**arrays, "areas": tuple(map(str, arrays["areas"]))})


class _Curve(NamedTuple):
    """Detections that count at one threshold, best score first: whose they are, and of the right ones the places and whose they are."""

    entry: np.ndarray
    right: np.ndarray
    right_entry: np.ndarray


def _at(values: np.ndarray, threshold: float | None) -> float:
    return float(values.mean() if threshold is None else values[np.argmin(np.abs(THRESHOLDS - threshold))])


def _precisions(curves: Sequence[_Curve], weights: np.ndarray, people: float) -> np.ndarray:
    """Mean of the interpolated precision over the 101 recalls, of every threshold [T]."""
    found, summed = [], (None, None)
    for curve in curves:
        if summed[0] is not curve.entry:
            summed = (curve.entry, np.cumsum(weights[curve.entry]))
        right = np.cumsum(weights[curve.right_entry])
        precision = right / (summed[1][curve.right] + np.spacing(1))
        best_beyond = np.maximum.accumulate(precision[::-1])[::-1]
        place = np.searchsorted(right / people, RECALLS, side="left")
        found.append(best_beyond[place[place < len(right)]].sum() / len(RECALLS))
    return np.array(found)


def _recalls(curves: Sequence[_Curve], weights: np.ndarray, people: float) -> np.ndarray:
    """Share of the people found, of every threshold [T]."""
    return np.array([weights[curve.right_entry].sum() / people for curve in curves])
