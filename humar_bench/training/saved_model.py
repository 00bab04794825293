"""Trained models to evaluate or to learn from: the folder of a run, or a published checkpoint of UniPHD or HuMAR."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from humar_bench.args import BUILT_IN, ModelArgs, UniphdArgs, shown
from humar_bench.errors import UsageError
from humar_bench.subjects.checkpoint import checkpoint_arguments, load_into
from humar_bench.training.options import LossArgs
from humar_bench.training.run_folder import read_checkpoint, read_options, read_state
from humar_bench.training.state import AVERAGE, MODEL, load_weights, part_of, refuse_unfit_weights
from humar_bench.training.step import build_model
from humar_bench.training.train_args import TrainArgs, with_settings
from humar_bench.uniphd import UniPHD


def load_run(folder: str | Path, arch: str | None = None) -> tuple[TrainArgs, UniPHD]:
    """The options of a run and the model of its last checkpoint, the moving average where there is one.

    An architecture that is not built in is code, and a folder may come from anybody: it runs only where `arch` names it. Raises UsageError.
    """
    options, state = read_options(folder), read_state(folder)
    options = dataclasses.replace(options, arch=trusted(options.arch, arch, f"the run {folder}"))
    if state is None:
        raise UsageError(f"the run {folder} has no checkpoint yet; go on with --resume first.")
    tensors = read_checkpoint(folder, state)
    weights = part_of(tensors, AVERAGE) or part_of(tensors, MODEL)
    if options.arch in BUILT_IN:  # whatever sizes run.json names, nothing is allocated for those that are not the weights'
        with torch.device("meta"):
            refuse_unfit_weights(build_model(options), weights, f"the checkpoint of {folder}")
    model = build_model(options)
    load_weights(model, weights, f"the checkpoint of {folder}")
    return options, model.eval()


def trusted(told: str, named: str | None, said: str) -> str:
    """The architecture to build where a file tells one and the user names one, or none. Raises UsageError unless it is built in, or what is
    built is what was named."""
    if told in BUILT_IN:
        if named is not None and named != told:
            raise UsageError(f"{said} has the architecture {shown(told)} and not {shown(named)}; leave --arch out.")
        return told
    if named is None:
        raise UsageError(
            f"{said} has the architecture {shown(told)}, which is code of its own and would run with your rights; where you trust it, add "
            f"--arch {told[:100]}."
        )
    return named


def load_published(path: str | Path, data: str, *, arch: str | None = None, settings: Iterable[str] = ()) -> tuple[TrainArgs, UniPHD]:
    """The model of a checkpoint that torch saved, and the options to evaluate it on `data` with.

    What the training script kept beside the weights says how the model was built; where it kept nothing, the published sizes do, and
    `settings` (FIELD=VALUE) change either. Raises UsageError.
    """
    told = checkpoint_arguments(path)
    given: dict[str, Any] = {} if told is None else {"model": ModelArgs.of(told), "whole": UniphdArgs.of(told)}
    chosen = "efficient" if getattr(told, "efficient_transformer", False) else getattr(told, "transformer_type", "original")
    if arch is None and not (isinstance(chosen, str) and chosen in BUILT_IN):
        raise UsageError(f"{path} was built with the transformer {shown(chosen)}, which is not built in; name one with --arch.")
    options = with_settings(TrainArgs(arch=arch or chosen, data=data, loss=LossArgs(masks=False), **given), settings)
    model = build_model(options)
    return options, load_into(model, path, prefix="").eval()
