"""How often the verdict on retention is wrong: trainings whose true retention is known, because they are made up. numpy only.

A made-up run has a learning curve that saturates, ends at its architecture's accuracy times what its seed does, and scores every picture:
score = u^(1/m - 1) with u uniform on 0..1, so the mean over all possible pictures is exactly the run's accuracy m. At m = 0.6 a score
spreads over pictures by 0.26, which is what average precision over ten OKS thresholds does. Runs agree about which pictures are hard: u is
made from a part that all runs share and one of their own. With the defaults, 1,000 pictures alone leave one
accuracy uncertain by 0.016 (95 %) and the ratio of two by 1.7 %; in a pilot they left 0.61 uncertain by 0.016 and its ratio by 1.6 %.
Everything after the scores (draws of pictures, interval, verdict) is what the study does.

Shapes: T trials, S runs of the candidate (the reference has 2S, with the control), P pictures, B draws.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from humar_bench.judging.retention import KEEPS, LOSES, MARGIN, Arm, decide, judge_study, picture_variance, weigh
from humar_bench.judging.statistics import CONFIDENCE, UNDECIDED

TRUTHS = (1.00, 0.98, 0.95, 0.90)
SPREADS, SEEDS, PICTURES = (0.01, 0.02, 0.04), (3, 4, 6, 10), (1000, 5000)
BATCH = 2**24  # scores made at once


@dataclass(frozen=True)
class World:
    """What trainings are like: accuracy of the reference, spread of log accuracy over seeds, what runs share of a picture's difficulty.

    `spread_candidate` is the candidate's own spread where it is another one. `rate` says how fast curves saturate.
    """

    spread: float = 0.02
    spread_candidate: float | None = None
    accuracy: float = 0.61
    shared: float = 0.8
    rate: float = 6.0

    def accuracies(self, random: np.random.Generator, retention: float, shape: tuple[int, ...], *, candidate: bool) -> np.ndarray:
        """True accuracy of each run, at most 0.99."""
        spread = self.spread_candidate if candidate and self.spread_candidate is not None else self.spread
        mean = self.accuracy * (retention if candidate else 1.0)
        return np.minimum(mean * np.exp(spread * random.standard_normal(shape)), 0.99)

    def grown(self, share: float) -> float:
        """Accuracy after this share of the schedule, as a share of that at its end."""
        return -math.expm1(-self.rate * share) / -math.expm1(-self.rate)

    def ease(self, random: np.random.Generator, trials: int, runs: int, pictures: int) -> np.ndarray:
        """log u of each picture for each run, [T, R, P]; trials share nothing, a trial's runs share pictures."""
        common = random.standard_normal((trials, 1, pictures), dtype=np.float32)
        own = random.standard_normal((trials, runs, pictures), dtype=np.float32)
        return np.log(special.ndtr(np.float32(math.sqrt(self.shared)) * common + np.float32(math.sqrt(1 - self.shared)) * own))

    def scores(self, random: np.random.Generator, accuracies: np.ndarray, pictures: int) -> np.ndarray:
        """Accuracies [T, R] -> scores [T, R, P] of the same pictures."""
        return scored(self.ease(random, *accuracies.shape, pictures), accuracies)


def scored(ease: np.ndarray, accuracies: np.ndarray) -> np.ndarray:
    """log u [T, R, P] and accuracies [T, R] -> scores [T, R, P], u^(1/m - 1)."""
    return np.exp(ease * (1 / accuracies - 1).astype(np.float32)[..., None])


def weights_of(random: np.random.Generator, pictures: int, draws: int) -> np.ndarray:
    """How much each picture [P] counts in each draw [B]; rows add up to 1."""
    drawn = np.stack([np.bincount(random.integers(pictures, size=pictures), minlength=pictures) for _ in range(draws)])
    return (drawn / pictures).astype(np.float32)


def arms(world: World, retention: float, *, seeds: int, pictures: int, draws: int = 200, seed: int = 0) -> tuple[Arm, Arm, Arm]:
    """One made-up study: reference, candidate and control, as `judge_study` takes them."""
    random = np.random.default_rng(seed)
    accuracies = np.concatenate([
        world.accuracies(random, retention, (1, seeds), candidate=name == "candidate") for name in ("reference", "candidate", "control")
    ], axis=1)
    scores = world.scores(random, accuracies, pictures)[0]
    drawn = weights_of(random, pictures, draws) @ scores.T
    found = []
    for at, name in enumerate(("reference", "candidate", "control")):
        own = slice(at * seeds, (at + 1) * seeds)
        mean = scores[own].mean(-1, dtype=float)
        found.append(Arm(name, mean, mean * world.grown(0.8), drawn[:, own].astype(float)))
    return found[0], found[1], found[2]


@dataclass(frozen=True)
class Rates:
    """Shares of trials: each verdict, a wrong one, and intervals that held the truth, ours and the plain hierarchical bootstrap's."""

    retention: float
    spread: float
    seeds: int
    pictures: int
    trials: int
    keeps: float
    loses: float
    undecided: float
    wrong: float
    covered: float
    covered_bootstrap: float


def wrong_word(retention: float, margin: float = MARGIN) -> str:
    """The verdict that says what is not so. Undecided and invalid never do."""
    return LOSES if retention >= margin else KEEPS


def rates(world: World, retention: float, **sizes: Any) -> Rates:
    """Many made-up studies of one truth."""
    [found] = rates_at(world, (retention,), **sizes)
    return found


def rates_at(
    world: World, truths: Sequence[float], *, seeds: int, pictures: int, trials: int = 2000, draws: int = 200, seed: int = 0,
    margin: float = MARGIN,
) -> list[Rates]:
    """Many made-up studies of each truth, judged as `judge_study` judges the candidate: against the runs of reference and control.

    Truths share the pictures and the reference's runs, which are most of the work.
    """
    random = np.random.default_rng([seed, seeds, pictures, round(1e4 * world.spread)])
    weights = weights_of(random, pictures, draws)
    judged: list[list[tuple[np.ndarray, ...]]] = [[] for _ in truths]
    at_once = max(1, BATCH // (3 * seeds * pictures))
    for start in range(0, trials, at_once):
        number = min(at_once, trials - start)
        ease = world.ease(random, number, 3 * seeds, pictures)
        accuracies = world.accuracies(random, 1.0, (number, 2 * seeds), candidate=False)
        reference = _seen(ease[:, : 2 * seeds], accuracies, weights)
        for truth, found in zip(truths, judged, strict=True):
            accuracies = world.accuracies(random, truth, (number, seeds), candidate=True)
            candidate = _seen(ease[:, 2 * seeds :], accuracies, weights)
            evidence = weigh(reference[0], candidate[0], picture_variance(reference[1], candidate[1]), draws=draws)
            low, high = bootstrapped(random, reference[1], candidate[1])
            inside = [(one <= math.log(truth)) & (math.log(truth) <= other) for one, other in ((evidence.low, evidence.high), (low, high))]
            found.append((decide(evidence.low, evidence.high, margin), *inside))
    made = []
    for truth, found in zip(truths, judged, strict=True):
        said, *inside = (np.concatenate(each) for each in zip(*found, strict=True))
        shares = [float((said == word).mean()) for word in (KEEPS, LOSES, UNDECIDED, wrong_word(truth, margin))]
        made.append(Rates(truth, world.spread, seeds, pictures, trials, *shares, *(float(each.mean()) for each in inside)))
    return made


def _seen(ease: np.ndarray, accuracies: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What an evaluation sees of runs: their accuracies on the pictures [T, S], and under each draw [T, B, S]."""
    scores = scored(ease, accuracies)
    drawn = (scores.reshape(-1, scores.shape[-1]) @ weights.T).reshape(*scores.shape[:2], -1)  # one product, not one a trial
    return scores.mean(-1, dtype=float), drawn.transpose(0, 2, 1).astype(float)


def bootstrapped(
    random: np.random.Generator, reference: np.ndarray, candidate: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """The plain hierarchical bootstrap, for comparison: in each draw of pictures the runs of each arm are drawn too.

    Accuracies under each draw, [T, B, S] and [T, B, S'] -> both ends [T] of the percentile interval of the log ratio.
    """
    means = []
    for each in (reference, candidate):
        runs = random.integers(each.shape[-1], size=each.shape)
        means.append(np.log(np.take_along_axis(each, runs, axis=-1)).mean(-1))
    ends = np.quantile(means[1] - means[0], [(1 - confidence) / 2, (1 + confidence) / 2], axis=-1)
    return ends[0], ends[1]


def table(
    *, spreads: Sequence[float] = SPREADS, seeds: Sequence[int] = SEEDS, pictures: Sequence[int] = PICTURES,
    truths: Sequence[float] = TRUTHS, trials: int = 2000, **world: Any,
) -> Iterator[list[Rates]]:
    """One list a (spread, seeds, pictures): its rates at every truth."""
    for spread, number, of in itertools.product(spreads, seeds, pictures):
        yield rates_at(World(spread, **world), truths, seeds=number, pictures=of, trials=trials)


def verdict_of(world: World, retention: float, **sizes: Any) -> str:
    """The whole judgement of one made-up study, the rules about curves included."""
    reference, candidate, control = arms(world, retention, **sizes)
    return judge_study(reference, [candidate], control)[candidate.name].verdict
