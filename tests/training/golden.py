"""The golden losses: their inputs from the recipe, and what was computed from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from tests import tolerance
from tests.training import recipe

WHOLE = Path(__file__).resolve().parent.parent / "data" / "whole"
TENSORS = ("pred_logits", "pred_boxes", "pred_keypoints", "pred_keypoints_visi", "pred_masks")


def read(name: str) -> tuple[dict, dict]:
    """(config, arrays) of a golden file."""
    with np.load(WHOLE / f"{name}.npz") as file:
        arrays = dict(file)
    return json.loads(bytes(arrays.pop("config"))), arrays


def inputs(seed: int, people: list[int], queries: int, keypoints: int, classes: int, sizes: list, layers: int, edge: bool):
    """(outputs of the layers, the last one with masks; targets) of a golden config; every output is a leaf with gradient.

    The recipe's float32 numbers in float64: what is left is the rounding of the golden files, on every machine the same.
    """
    targets = recipe.people(seed, people, keypoints, sizes)
    height, width = recipe.padded(sizes)
    outputs = [
        recipe.predictions(seed + 100 + 100 * i, len(people), queries, keypoints, height, width, classes) for i in range(layers)
    ]
    if edge:
        recipe.edge(outputs, targets)
    for i, output in enumerate(outputs):
        if i < layers - 1:
            del output["pred_masks"]
        for name, value in output.items():
            output[name] = value.double().requires_grad_()
    return outputs, [recipe.in_type(target) for target in targets]


def as_model(outputs: list[dict]) -> dict:
    """The layers' outputs as a model gives them: the last one, with the others under `aux_outputs`."""
    return outputs[-1] | {"aux_outputs": outputs[:-1]}


def assert_close(found, wanted, what: str, terms: int = 1000, least: float = 1e-3) -> None:
    """But for the rounding of float32, in which the golden files were made: of `terms` that add up to `least` at least, or cancel."""
    found, wanted = (torch.as_tensor(each).detach() for each in (found, wanted))
    tolerance.assert_close(found, wanted, terms=terms, scale=max(tolerance.largest(wanted), least), dtype=torch.float32, name=what)
