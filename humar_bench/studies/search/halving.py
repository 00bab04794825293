"""Short trainings of designs that differ in width and depth: which run is which, and what each begins with. No torch.

A design is trained in the preset's small model with its own layers and switches, at the share of its width that the small model has of the
default's, at half of it at least. The whole model's group normalisation wants a multiple of 32, and quarters of widths are not far enough
from each other for that. Weights before the transformer have its width, so designs of one width share theirs. Every run has a whole
schedule of its own, however short: a design that goes on is trained anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from humar_bench.args import EFFICIENT_PREFIX, ModelArgs
from humar_bench.errors import UsageError
from humar_bench.records.record import TRAINING, Record, workload_now
from humar_bench.studies.accuracy.plan import FLOOR, MEAN_POSE, RUN, Asked, Job, plan_of, steps_of
from humar_bench.studies.accuracy.pool import Front
from humar_bench.studies.accuracy.presets import Preset
from humar_bench.studies.search.front import rungs
from humar_bench.studies.search.space import SHARED
from humar_bench.studies.switches import DESIGN
from humar_bench.subjects.registry import Architecture
from humar_bench.training.train_args import TrainArgs

FIRST_SEED = 0  # of the rungs before the last, whose seeds are others
WIDTH_STEP, LEAST_SHARE = 32, 0.5  # a width in training is a multiple of it, and at least so much of the design's
_OF_A_RUN = ("role", "pictures", "seed", "data_seed")  # of its workload


@dataclass(frozen=True)
class Trainings:
    """How designs are trained: `designs` of them in the first rung beside the default, `seeds` runs of each in the last."""

    preset: Preset
    base: TrainArgs  # of every run, but for model, pictures and seeds
    designs: int
    seeds: int

    @property
    def rungs(self) -> list[tuple[int, int]]:
        """(designs beside the default, pictures of each run) of every rung."""
        return self.rungs_of(self.designs)

    def rungs_of(self, designs: int) -> list[tuple[int, int]]:
        return rungs(designs, self.base.pictures, steps_of(self.base)) if designs else []

    def small(self, design: ModelArgs, asked: ModelArgs) -> ModelArgs:
        """A design as it is trained; `asked` is the default one. Raises UsageError where it cannot be."""
        model = self.preset.base.model
        share = max(LEAST_SHARE, model.hidden_dim / asked.hidden_dim)
        width = max(WIDTH_STEP, round(share * design.hidden_dim / WIDTH_STEP) * WIDTH_STEP)
        own = {each.name: getattr(design, each.name) for each in dataclasses.fields(ModelArgs)
               if each.name.startswith(EFFICIENT_PREFIX) or each.name in SHARED}
        try:
            return dataclasses.replace(model, **{**own, "hidden_dim": width})
        except UsageError as error:
            raise UsageError(f"a design of width {design.hidden_dim} is trained at width {width}, and there {error}") from None

    def jobs(self, name: str, model: ModelArgs, rung: int, pictures: int, seeds: Sequence[int]) -> list[Job]:
        """The runs of one design in one rung."""
        base = dataclasses.replace(self.base, arch=DESIGN, model=model, pictures=pictures)
        options = [dataclasses.replace(base, seed=seed, data_seed=seed) for seed in seeds]
        return [Job(RUN, name, Architecture(name, DESIGN, foreign=False), each, stage=f"rung{rung}-") for each in options]

    def seeds_of(self, rung: int, last: int) -> range:
        return range(1, self.seeds + 1) if rung == last else range(FIRST_SEED, FIRST_SEED + 1)

    @property
    def floor_job(self) -> Job:
        """The mean pose at the right place and scale."""
        return Job(FLOOR, MEAN_POSE, Architecture(MEAN_POSE, "", foreign=False), dataclasses.replace(self.base, pictures=0))

    def made(self, record: Record) -> bool:
        """Whether a record is of a run as these are: all is alike but its model, its length and its seed."""
        if record.measure != TRAINING:
            return False
        own, theirs = self.floor_job.work, workload_now(record.workload)
        return own.keys() == theirs.keys() and all(theirs[name] == value for name, value in own.items() if name not in _OF_A_RUN)

    def front(self, folder: Path, job: Job) -> Front:
        """The weights a run begins with: those of its width."""
        if not self.preset.warm_pictures:
            return Front(folder, None)
        width = job.options.model.hidden_dim
        model = dataclasses.replace(self.preset.base.model, hidden_dim=width)
        options = dataclasses.replace(self.base, arch=DESIGN, model=model, pictures=self.preset.warm_pictures)
        return Front(folder / f"width-{width}", options)


def trainings_of(preset: Preset, asked: Asked, *, designs: int, rate: float | None = None) -> Trainings:
    """Raises UsageError with one sentence for what cannot be. The learning rate is everybody's, by default the second highest of the
    preset's grid, which the replacement did best with in `results/cpu-accuracy`."""
    plan = plan_of(preset, dataclasses.replace(asked, arch=("original", DESIGN), ring="published"))
    if rate is not None and not 0 < rate < 1:
        raise UsageError(f"--rate is {rate:g}; it must be above 0 and below 1.")
    base = dataclasses.replace(plan.base, optim=plan.base.optim.with_lr(rate or plan.rates[-2]), evaluate_every=0)
    return Trainings(plan.preset, base, designs, plan.seeds)
