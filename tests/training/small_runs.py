"""Training runs of seconds: everything of a real one, small."""

from __future__ import annotations

import dataclasses
from typing import Any

from humar_bench.args import ModelArgs
from humar_bench.training.options import LossArgs, OptimArgs
from humar_bench.training.train_args import TrainArgs

TINY = ModelArgs(
    hidden_dim=32, nheads=4, dim_feedforward=48, enc_layers=1, dec_layers=2, num_feature_levels=3, num_queries=3, efficient_nheads=2,
    efficient_enc_layers=1, efficient_encoder_sets=1,
)
TIMES = ("wall_s", "cpu_s", "evaluation_s")


def tiny(arch: str = "efficient", **changes: Any) -> TrainArgs:
    """Six steps of two pictures of 64 pixels."""
    optim = {"batch_size": 2, "warmup_steps": 2, **changes.pop("optim", {})}
    options = TrainArgs.small(
        arch, pictures=12, size=64, evaluate_every=6, evaluation_pictures=5, evaluation_batch=3, checkpoint_every=2, log_every=1, threads=1,
        device="cpu", model=TINY,
    )
    return dataclasses.replace(options, **{"optim": OptimArgs.preset("small", **optim), **changes})


def alike(options: TrainArgs) -> TrainArgs:
    """Without dropout, and with losses that are sums over people: what several processes or batches add up to does not depend on how."""
    return dataclasses.replace(options, no_dropout=True, loss=LossArgs(masks=options.loss.masks, visibility_divided_twice=False))


def without_times(lines: list[dict]) -> list[dict]:
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


class Killed(BaseException):
    """What no handler catches."""


def killed_at(step: int):
    def tell(event) -> None:
        if event["kind"] == "progress" and event["step"] == step:
            raise Killed

    return tell
