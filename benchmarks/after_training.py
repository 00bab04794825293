"""What can be saved of a trained model without training it again: fewer iterations, int8 weights, fewer channels of its MLPs.

    python benchmarks/after_training.py RUN

RUN is the folder of `humar-bench train` with the replacement. Each row evaluates the run's model once on its evaluation pictures, one at a
time. Channels of an MLP are ranked by torch's `ln_structured`: the norm of their incoming weights. `--rows tune` trains two models on for
`--pictures` more each: the run's, and the one whose MLPs lost half of their channels, which `efficient_mlp_ratio` builds. One core, about
two minutes for 300 pictures, and the time of the trainings.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn.utils import prune

from efficient.layers import FeedForward
from humar_bench.backends.eager import quantise_linear
from humar_bench.training import loop
from humar_bench.training.batches import evaluation_source, tokens_of
from humar_bench.training.evaluate import Evaluation, logged
from humar_bench.training.saved_model import load_run
from humar_bench.training.train_args import TrainArgs
from humar_bench.uniphd import UniPHD

EXITS = (0.01, 0.03, 0.1, 0.2, 1.0)
SHARES = (0.25, 0.5)  # of the hidden channels, taken away
TUNING_RATE = 3e-4  # learning rate at the start of the training that follows
FIGURES = ("ap", "coco_ap", "oks", "pckh")


def narrowed(model: UniPHD, share: float) -> UniPHD:
    """A copy whose transformer's MLPs have lost so large a share of their hidden channels, those with the least incoming weights."""
    model = copy.deepcopy(model)
    for mlp in [each for each in model.transformer.modules() if isinstance(each, FeedForward)]:
        one, two = mlp.linear1, mlp.linear2
        pruned = prune.ln_structured(copy.deepcopy(one), "weight", amount=share, n=2, dim=0)
        kept = pruned.weight_mask.any(1)
        hidden = int(kept.sum())
        mlp.linear1, mlp.linear2 = nn.Linear(one.in_features, hidden), nn.Linear(hidden, two.out_features)
        with torch.no_grad():
            mlp.linear1.weight.copy_(one.weight[kept])
            mlp.linear1.bias.copy_(one.bias[kept])
            mlp.linear2.weight.copy_(two.weight[:, kept])
            mlp.linear2.bias.copy_(two.bias)
    return model


def weights_in_int8(model: UniPHD) -> UniPHD:
    """A copy whose transformer's linear layers have the values that int8 weights can hold, one scale a row, and compute in float32."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for layer in [each for each in model.transformer.modules() if isinstance(each, nn.Linear)]:
            scale = layer.weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
            layer.weight.copy_((layer.weight / scale).round() * scale)
    return model


def iterations_done(model: UniPHD, run: Callable[[], Any]) -> tuple[Any, float]:
    """What `run` gives, and the mean over its forwards of how many iterations the decoder did: outputs of others are repeated."""
    counts: list[int] = []
    hook = model.transformer.register_forward_hook(lambda module, inputs, outputs: counts.append(len({id(each) for each in outputs[0]})))
    try:
        return run(), sum(counts) / len(counts)
    finally:
        hook.remove()


def trained_on(options: TrainArgs, model: UniPHD, pictures: int, folder: Path, *, ratio: int) -> UniPHD:
    """The model after so many pictures more, at a rate that ends at 0; `ratio` is that of its MLPs."""
    options = dataclasses.replace(
        options, pictures=pictures, evaluate_every=0, front_end="", optim=options.optim.with_lr(TUNING_RATE),
        model=dataclasses.replace(options.model, efficient_mlp_ratio=ratio),
    )
    with mock.patch.object(loop, "load_start", lambda new, options: new.load_state_dict(model.state_dict())):
        loop.train(options, folder)
    return load_run(folder)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description="What can be saved of a trained model without training it again.")
    parser.add_argument("run")
    parser.add_argument("--rows", default="plain,exit,int8,prune", help="of plain, exit, int8, prune, tune")
    parser.add_argument("--pictures", type=int, default=2_400)
    asked = parser.parse_args()
    options, model = load_run(asked.run)
    options = dataclasses.replace(options, evaluation_batch=1)  # so that each picture stops by itself
    evaluation = Evaluation(options, evaluation_source(options), tokens_of(options))

    def row(name: str, of: UniPHD) -> None:
        statistics, iterations = iterations_done(of, lambda: evaluation(of, torch.device("cpu"), masks=False))
        figures, size = logged(statistics), sum(each.numel() for each in of.transformer.parameters())
        print(f"{name:24}", *(f"{figure} {figures[figure]:.3f}" for figure in FIGURES), f"iterations {iterations:.2f}", f"weights {size:,}",
              sep="  ", flush=True)

    rows = asked.rows.split(",")
    if "plain" in rows:
        row("as trained", model)
    if "exit" in rows:
        for below in EXITS:
            model.transformer.decoder.exit_below = below
            row(f"exit_below {below}", model)
        model.transformer.decoder.exit_below = 0.0
    if "int8" in rows:
        row("int8 weights alone", weights_in_int8(model))
        dynamic = copy.deepcopy(model)
        dynamic.transformer = quantise_linear(model.transformer)
        row("int8, dynamic", dynamic)
    if "prune" in rows:
        for share in SHARES:
            row(f"MLP channels -{share:.0%}", narrowed(model, share))
    if "tune" in rows:
        ratio = options.model.efficient_mlp_ratio
        with tempfile.TemporaryDirectory() as folder:
            for name, start, width in (("as trained", model, ratio), ("MLP channels -50%", narrowed(model, 0.5), ratio // 2)):
                row(f"{name}, trained on", trained_on(options, start, asked.pictures, Path(folder) / name, ratio=width))


if __name__ == "__main__":
    main()
