"""A study of accuracy whose runs are made up: children that answer at once, with scores of a known retention and curves that saturate."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from humar_bench.running.children import Child, Outcome
from humar_bench.studies.accuracy import accuracy as study
from humar_bench.studies.accuracy import worker
from humar_bench.studies.accuracy.made_up import World
from humar_bench.studies.accuracy.plan import AccuracyPlan, Asked, plan_of
from humar_bench.studies.accuracy.presets import PRESETS
from humar_bench.studies.accuracy.scores import Scores
from humar_bench.training.train_args import TrainArgs

PICTURES, VAL = 400, 200
WEIGHTS = b"weights"  # of the shared front end
ENVIRONMENT = {"device": "cpu", "device_label": "a CPU", "cpu": "a CPU", "cores": 2, "threads": 1, "torch": "2.13.0", "python": "3.12"}


def plan(arch: tuple[str, ...] = ("original", "efficient"), **asked: Any) -> AccuracyPlan:
    usual = {"level": 0, "ring": "published", "seeds": 3, "pictures": PICTURES, "evaluation_pictures": VAL}
    given = {**usual, "rates": (2.5e-4, 5e-4, 1e-3), **asked}
    return dataclasses.replace(plan_of(PRESETS["cpu"], Asked(arch=arch, **given)), draws=60)


def train_here(monkeypatch: pytest.MonkeyPatch, study: Callable[..., Any], keyword: str, given: Any) -> None:
    """A study trains in this process, its mean pose is of few people; tests/cli/test_accuracy.py has children for both."""
    monkeypatch.setattr(study, "__kwdefaults__", {**study.__kwdefaults__, keyword: given})
    monkeypatch.setattr(worker, "POSES", 60)


@dataclasses.dataclass
class Made:
    """What the made-up children do: retention by architecture spec, the best learning rate of each, what goes wrong with which run.

    `fails` is asked with the options of a run and says kind and reason, or nothing. Requests are kept in `asked`.
    """

    retention: Mapping[str, float] = dataclasses.field(default_factory=dict)
    best: Mapping[str, float] = dataclasses.field(default_factory=dict)
    world: World = World(spread=0.004, accuracy=0.7)
    floor: float = 0.1
    fails: Callable[[TrainArgs], tuple[str, str] | None] = lambda options: None
    front_end: Callable[[TrainArgs], str] = lambda options: hashlib.sha256(WEIGHTS).hexdigest()[:16]
    cost_s: float = 0.0
    asked: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    clock_s: float = 0.0
    at_once: set[int] = dataclasses.field(default_factory=set)

    def now(self) -> float:
        return self.clock_s

    def children(self, children: Iterator[tuple[Any, Child]], *, at_once: int) -> Iterator[tuple[Any, Outcome]]:
        """In place of `run_children`."""
        self.at_once.add(at_once)
        for tag, child in children:
            self.asked.append(child.request)
            self.clock_s += self.cost_s
            child.hear({"stage": "training", "share": 0.5})
            reply = self.reply(child.request)
            child.check(reply)
            yield tag, Outcome(reply)

    def reply(self, request: Mapping[str, Any]) -> dict[str, Any]:
        result = {"status": "ok", "kind": "", "reason": "", "built": {}, "measured": None}
        if request["role"] == "warm":
            Path(request["front_end"]).write_bytes(WEIGHTS)
            return {"environment": ENVIRONMENT, "result": {**result, "measured": {"oks": 0.5}}}
        options = TrainArgs.of_json(request["options"])
        if wrong := self.fails(options):
            return {"environment": ENVIRONMENT, "result": {**result, "status": "failed", "kind": wrong[0], "reason": wrong[1]}}
        return {"environment": ENVIRONMENT, "result": {**result, "measured": self.measured(request["role"], options)}}

    def measured(self, role: str, options: TrainArgs) -> dict[str, Any]:
        """Scores of the run's pictures; the same run scores the same."""
        if role == "floor":
            return {**self._pictures(options, self.floor, options), "pictures": 0, "parameters": 0, "curve": []}
        random = np.random.default_rng([options.seed, *options.arch.encode()])
        true = self.world.accuracy * self.retention.get(options.arch, 1.0) * np.exp(self.world.spread * random.standard_normal())
        off = np.log2(options.optim.lr / self.best.get(options.arch, 5e-4))
        found = self._pictures(options, true * np.exp(-0.1 * off**2), options)
        ap, oks = Scores(found).accuracy(), float(np.mean(found["oks"]))
        shares = [each / 5 for each in range(1, 6)] if options.evaluate_every else [1.0]
        curve = [
            {"pictures": round(share * options.pictures), "wall_s": 10 * share, "cpu_s": 9 * share, "ap": ap * self.world.grown(share),
             "oks": oks * self.world.grown(share)} for share in shares
        ]
        return {**found, "pictures": options.pictures, "parameters": 1000, "curve": curve, "front_end": self.front_end(options)}

    def _pictures(self, options: TrainArgs, accuracy: float, run: TrainArgs) -> dict[str, Any]:
        """Pictures whose average precision is about `accuracy`: that share of them is right at every threshold."""
        hard = np.random.default_rng(0).standard_normal(options.evaluation_pictures)
        own = np.random.default_rng([run.seed, *run.arch.encode(), 7]).standard_normal(options.evaluation_pictures)
        easy = np.argsort(np.argsort(0.98 * hard + 0.2 * own)) / len(hard)
        oks = np.where(easy < accuracy, 0.99, 0.2)
        return {"score": np.round(1 - easy / 2, 6).tolist(), "oks": oks.tolist(), "picture": None}


def measured(made: Made, folder: Any, asked: AccuracyPlan | None = None, **more: Any) -> study.Accuracy:
    """The study that these children make."""
    return study.measure_accuracy(asked or plan(), folder, children=made.children, now=made.now, **more)
