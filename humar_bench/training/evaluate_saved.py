"""A trained or published model, evaluated on any data: its metrics with intervals and what they hold for."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from humar_bench.data.keypoints import NAMES
from humar_bench.errors import UsageError
from humar_bench.training.batches import evaluated, evaluation_prompt, evaluation_source, tokens_of
from humar_bench.training.evaluate import Evaluation
from humar_bench.training.picture_statistics import Estimate, PictureStatistics
from humar_bench.training.saved_model import load_published, load_run
from humar_bench.training.step import device_of
from humar_bench.training.train_args import TrainArgs

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Evaluated:
    """What was found, of what."""

    model: str
    options: TrainArgs
    prompt: str
    entries: int
    resamples: int
    statistics: PictureStatistics
    estimates: dict[str, Estimate]

    @property
    def keypoints(self) -> tuple[str, ...]:
        """The names of the keypoints, their numbers where there are none."""
        number = self.options.model.num_body_points
        return NAMES if number == len(NAMES) else tuple(f"keypoint {each + 1}" for each in range(number))

    @property
    def conditions(self) -> tuple[str, ...]:
        """What the numbers hold for, as sentences."""
        split = self.options.evaluation_split
        of = f"{self.model} on {self.entries:,} entries of {self.options.data}, {split}, by {self.prompt}"
        if self.options.is_procedural:
            of += f"; seed {self.options.evaluation_seed}, {self.options.size} pixels"
        drawn = f"Intervals: {CONFIDENCE:.0%}, {self.resamples:,} draws of {self.statistics.pictures:,} pictures."
        return (f"{of}.", *((drawn,) if self.resamples else ()))

    def document(self) -> dict[str, Any]:
        """Every number as plain values."""
        return {
            "model": self.model, "arch": self.options.arch, "data": self.options.data, "split": self.options.evaluation_split,
            "seed": self.options.evaluation_seed, "size": self.options.size, "prompt": self.prompt, "entries": self.entries,
            "pictures": self.statistics.pictures, "resamples": self.resamples, "confidence": CONFIDENCE,
            "metrics": {name: value._asdict() for name, value in self.estimates.items()},
        }


def evaluate_saved(
    model: str | Path, *, data: str | None = None, settings: Iterable[str] = (), arch: str | None = None, prompt: str | None = None,
    masks: bool = True, resamples: int = 1000, device: str | None = None, threads: int = 0, changes: Mapping[str, Any] | None = None,
    tell: Callable[[float], None] = lambda share: None,
) -> Evaluated:
    """Evaluate the folder of a run, or a checkpoint that torch saved.

    `data` is needed for a checkpoint; a run's own is the default. `changes` replace fields of the options (`evaluation_pictures`, ...),
    `settings` say how a checkpoint's model was built; a run of a foreign architecture needs that as `arch`. `tell` hears the share that
    is done. Raises UsageError, MeasurementError.
    """
    if os.path.isdir(model):
        if settings:
            raise UsageError("--set says how a checkpoint's model was built; a run knows, leave it out.")
        options, built = load_run(model, arch)
        options = dataclasses.replace(options, data=data or options.data)
    elif data is None:
        raise UsageError(f"--data is missing; name what {model} is to be evaluated on.")
    else:
        options, built = load_published(model, data, arch=arch, settings=settings)
        if not options.is_procedural:
            options = dataclasses.replace(options, evaluation_pictures=0, evaluation_batch=4)
    options = dataclasses.replace(options, **{"threads": threads, "device": device or "auto", **(changes or {})})
    prompt = prompt or evaluation_prompt(options)
    if prompt not in options.whole.train_trigger:
        built_for = " ".join(sorted(options.whole.train_trigger))
        raise UsageError(f"prompt is {prompt} and the model was built for {built_for}; choose one of these.")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        where = device_of(device)
        source = evaluation_source(options)
        number = evaluated(options, source)
        evaluation = Evaluation(options, source, tokens_of(options) if prompt == "text" else None)
        statistics = evaluation(built.to(where), where, prompt=prompt, masks=masks, tell=lambda done: tell(done / number))
    finally:
        torch.set_num_threads(before)
    estimates = statistics.estimates(resamples=resamples, confidence=CONFIDENCE)
    return Evaluated(Path(model).name, options, prompt, number, resamples, statistics, estimates)
