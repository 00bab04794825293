"""Trained models to evaluate or to learn from: the folder of a run, or a published checkpoint of UniPHD or HuMAR."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from humar_bench.args import ModelArgs, UniphdArgs
from humar_bench.errors import UsageError
from humar_bench.subjects.checkpoint import checkpoint_arguments, load_into
from humar_bench.training.run_folder import read_checkpoint, read_options, read_state
from humar_bench.training.state import AVERAGE, MODEL, load_weights, part_of
from humar_bench.training.step import build_model
from humar_bench.training.train_args import TrainArgs, with_settings
from humar_bench.uniphd import UniPHD


def load_run(folder: str | Path) -> tuple[TrainArgs, UniPHD]:
    """The options of a run and the model of its last checkpoint, the moving average where there is one. Raises UsageError."""
    options, state = read_options(folder), read_state(folder)
    if state is None:
        raise UsageError(f"the run {folder} has no checkpoint yet; go on with --resume first.")
    tensors = read_checkpoint(folder, state)
    model = build_model(options)
    load_weights(model, part_of(tensors, AVERAGE) or part_of(tensors, MODEL), f"the checkpoint of {folder}")
    return options, model.eval()


def load_published(path: str | Path, data: str, *, arch: str | None = None, settings: Iterable[str] = ()) -> tuple[TrainArgs, UniPHD]:
    """The model of a checkpoint that torch saved, and the options to evaluate it on `data` with.

    What the training script kept beside the weights says how the model was built; where it kept nothing, the published sizes do, and
    `settings` (FIELD=VALUE) change either. Raises UsageError.
    """
    told = checkpoint_arguments(path)
    given: dict[str, Any] = {} if told is None else {"model": ModelArgs.of(told), "whole": UniphdArgs.of(told)}
    chosen = "efficient" if getattr(told, "efficient_transformer", False) else getattr(told, "transformer_type", "original")
    options = TrainArgs(arch=arch or chosen, data=data, **given)
    options = with_settings(options, settings)
    if options.whole.no_mask:
        options = dataclasses.replace(options, loss=dataclasses.replace(options.loss, masks=False))
    model = build_model(options)
    return options, load_into(model, path, prefix="").eval()
