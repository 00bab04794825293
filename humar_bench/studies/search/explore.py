"""Looking at many designs without running any: NSGA-II over their exact costs, as fast as designs can be sketched.

By cost alone the smallest design is best. So a design is also held to what it pays for: `capacity`, its weights, each counted with the root
of how often it is used, and `mixing_flops`, how much its tokens learn of each other (`measures/sketch.py`). The number of weights of its
decoder ranks transformers nearly as well as training them does (Javaheripi et al. 2022, "LiteTransformerSearch"). Neither says how accurate
a design is: they keep a large one from being dropped for being large, and what is left is trained.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from humar_bench.args import ModelArgs, Workload, read_workload
from humar_bench.errors import MeasurementError
from humar_bench.measures.sketch import Sketch, Sketcher
from humar_bench.studies.search.space import Space
from humar_bench.studies.search.storage import BY, DIRECTIONS, OBJECTIVES, complete, library, open_shared
from humar_bench.studies.switches import DESIGN
from humar_bench.subjects.registry import load_builder
from humar_bench.subjects.transformer import make_inputs

BATCH = 25  # designs between two looks at what the other processes found
POPULATION = 100
MOST_REPEATS = 20  # trials for each one that is wanted, where a small space gives the same design again and again


@dataclass(frozen=True)
class Explored:
    """What one process did: trials, the different designs among them that it sketched, seconds."""

    trials: int
    sketched: int
    seconds: float


def explore(
    journal: str, space: Space, work: Workload, designs: int, *, bounds: Mapping[str, float], process: int = 0, seed: int = 0,
    tell: Callable[[float], None] = lambda share: None, now: Callable[[], float] = time.monotonic,
) -> Explored:
    """Until the shared study holds so many trials. `bounds` are the most of a cost, by name. Raises UsageError, MeasurementError."""
    optuna = library()
    shared = open_shared(journal, space, work, bounds)
    sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed + 1000 * process)
    own = optuna.create_study(directions=list(DIRECTIONS), sampler=sampler)
    choices = {name: optuna.distributions.CategoricalDistribution(values) for name, values in space.values.items()}
    look, start_s, told, known, me = _Looker(space, work), now(), 0, 0, uuid.uuid4().hex
    if process == 0 and space.start is not None:
        own.enqueue_trial(space.start)
    while True:
        others = complete(shared, journal)
        for trial in others[known:]:
            if trial.user_attrs.get(BY) != me:
                own.add_trial(trial)
        known = len(others)
        tell(min(1.0, known / designs))
        if known >= designs or look.repeats > MOST_REPEATS * designs:
            return Explored(told, look.sketched, now() - start_s)
        for _ in range(min(BATCH, designs - known)):
            trial = own.ask(choices)
            found = look(trial.params)
            if found is None:
                own.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            over = {name: getattr(found, name) / most - 1 for name, most in bounds.items()}
            for name, excess in over.items():
                trial.set_constraint(name, excess)
            trial.set_user_attr(BY, me)
            trial.set_user_attr("allowed", all(excess <= 0 for excess in over.values()))
            shared.add_trial(own.tell(trial, [float(getattr(found, name)) for name in OBJECTIVES]))
            told += 1


class _Looker:
    """Sketches each design once."""

    def __init__(self, space: Space, work: Workload) -> None:
        self.space, self.work = space, work
        self.sketcher, self.builder = Sketcher(), load_builder(DESIGN)
        self.found: dict[ModelArgs, Sketch | None] = {}
        self.repeats = 0

    @property
    def sketched(self) -> int:
        return len(self.found)

    def __call__(self, point: Mapping[str, Any]) -> Sketch | None:
        """None for a point that is no design, or one that cannot be sketched."""
        design = self.space.design(point)
        if design is None or design in self.found:
            self.repeats += 1
        if design is not None and design not in self.found:
            self.found[design] = self._sketched(design)
        return None if design is None else self.found[design]

    def _sketched(self, design: ModelArgs) -> Sketch | None:
        try:
            return self.sketcher.sketch(lambda: self.builder(design), make_inputs(design, self.work, device="meta"))
        except MeasurementError:
            return None


def read_request(request: Mapping[str, Any]) -> tuple[Space, Workload]:
    """The space and the workload of a request."""
    space = Space(ModelArgs(**request["args"]), {name: tuple(values) for name, values in request["values"].items()})
    return space, read_workload(request["workload"])


def plain(found: Explored) -> dict[str, Any]:
    return dataclasses.asdict(found)
