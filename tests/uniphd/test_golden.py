"""The whole model against its golden files: positions, everything from backbone maps on, for all three kinds of prompts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from humar_bench.uniphd.positions import map_positions, resized_padding, text_positions
from tests.tolerance import chained_terms
from tests.uniphd.recipe import DATA, Case, agree, lengths_padding, padded, with_inside


@pytest.mark.parametrize("kind", ["text", "point", "scribble"])
@pytest.mark.parametrize(
    ("name", "gradient"),
    [("heads-tiny", False), ("heads-tiny", True), ("heads-edge", False), ("heads-edge", True), ("heads-default", False)],
)
def test_everything_from_maps_on_is_reproduced(name, kind, gradient):
    """In float64: what is left is the rounding of the golden files, on every machine the same."""
    case, golden = Case.of(name), np.load(DATA / f"{name}.npz")
    model = case.model().double()
    with torch.set_grad_enabled(gradient):
        made = with_inside(model, *case.inputs(kind, torch.float64))
    keys = [key for key in golden.files if key.startswith(f"{kind}/")]
    assert len(keys) > 20
    for key in keys:
        part = key.partition("/")[2]
        agree(part, made[part.partition("@")[0]], golden[key], chained_terms(model))


def test_positions_are_reproduced():
    golden = np.load(DATA / "positions.npz")
    config = json.loads(golden["config"].tobytes().decode())
    image = padded(config["sizes"])
    for i, size in enumerate(config["maps"]):
        padding = resized_padding(image, size)
        agree(f"mask_{i}", padding, golden[f"mask_{i}"])
        positions = map_positions(padding, 2 * config["features"], config["temperature_h"], config["temperature_w"])
        agree(f"pos2d_{i}", positions, golden[f"pos2d_{i}"], terms=100)  # angles as exact as the places, which count cells
    agree("pos1d", text_positions(lengths_padding(config["lengths"]), config["channels"]), golden["pos1d"], terms=100)


def test_the_comparison_can_fail():
    golden = np.ones((2, 3), dtype=np.float32)
    agree("same", torch.ones(2, 3), golden)
    with pytest.raises(AssertionError, match="off: "):
        agree("off", torch.full((2, 3), 1.00002), golden)
    with pytest.raises(AssertionError, match="instead of"):
        agree("shape@2", torch.ones(2, 2), golden)
