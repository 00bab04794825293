"""Sizes of study: how large the models are that are trained, on how much, with which learning rates to choose from. No torch.

`cpu` is from pilots on two cores, `gpu` from one study on an H100 (docs/accuracy.md); `refhuman` is an estimate.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from humar_bench.args import ModelArgs, UniphdArgs
from humar_bench.training.options import LossArgs, OptimArgs
from humar_bench.training.train_args import TrainArgs


@dataclass(frozen=True)
class Preset:
    """A size of study. `title` is how its results are called wherever they are shown."""

    name: str
    title: str
    base: TrainArgs
    rates: tuple[float, ...]  # the grid of learning rates, rising by about one factor
    rate_share: float  # of a run's pictures that a run for the learning rate sees
    warm_pictures: int
    seeds: int
    minutes: float  # what it takes on the machine it is made for
    machine: str
    at_once: int = 0  # runs side by side; 0: as many as there are cores


_SMALL = TrainArgs.small(
    "original", evaluation_pictures=1000, evaluate_every=1, checkpoint_every=250, log_every=50, device="cpu", threads=1,
)
PRESETS = {
    each.name: each
    for each in (
        Preset(
            "cpu", "early accuracy on small models", dataclasses.replace(_SMALL, size=96, pictures=14_400), (2.5e-4, 5e-4, 1e-3, 2e-3), 0.3,
            16_000, 3, 60, "2 cores",
        ),
        Preset(
            "gpu", "accuracy at full width, 256 px, procedural people",
            TrainArgs.small(
                "original", pictures=24_000, size=256, model=ModelArgs(num_feature_levels=3),
                whole=UniphdArgs(backbone="small_conv", text_encoder_type="tiny", train_trigger=frozenset({"text"}), no_mask=True),
                optim=OptimArgs.preset("small", batch_size=16), evaluation_pictures=1000, evaluation_batch=100, evaluate_every=1,
                device="cuda", dtype="tf32", threads=1, workers=2,
            ),
            (1e-4, 2e-4, 4e-4, 8e-4), 0.25, 16_000, 3, 20, "one H100", at_once=9,
        ),
        Preset(
            "refhuman", "accuracy on RefHuman",
            TrainArgs(data="RefHuman", augment=True, evaluation_pictures=0, evaluate_every=1, device="cuda", workers=4,
                      loss=LossArgs(masks=True)),
            (5e-5, 1e-4, 2e-4), 0.1, 0, 3, 60 * 24 * 14, "one H100", at_once=1,
        ),
    )
}
