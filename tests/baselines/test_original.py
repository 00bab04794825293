"""The original against its golden files, its parameter list and its own description."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines import build_fused_transformer, build_transformer
from baselines.deformable_attention import DeformableAttention, deformable_attention
from humar_bench.args import ModelArgs
from tests.models import fill_from_names, golden_inputs, outputs_by_name
from tests.tolerance import assert_close, chained_terms, largest

DATA = Path(__file__).parents[1] / "data"


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("build", [build_transformer, build_fused_transformer])
@pytest.mark.parametrize("name", ["tiny4", "tiny3_nopad"])
def test_the_golden_files_are_reproduced(name, build, dtype):
    """The files are float32: in float64 what is left is their rounding, on every machine the same."""
    golden = np.load(DATA / f"{name}.npz")
    config = json.loads(golden["config"].tobytes().decode())
    args = Namespace(**config["args"])
    model = build(args).eval()
    fill_from_names(model)
    model.to(dtype)
    with torch.inference_mode():
        outputs = outputs_by_name(model(*golden_inputs(args, config["sizes"], config["pad"], dtype=dtype)))
    assert set(outputs) == set(golden.files) - {"config"}
    for key, output in outputs.items():
        assert_close(output, torch.from_numpy(golden[key]), terms=chained_terms(model), dtype=torch.float32, name=key)


def test_the_state_dict_has_upstreams_names_and_shapes():
    with torch.device("meta"):
        state = build_transformer(ModelArgs()).state_dict()
    with open(DATA / "original_parameters.csv", newline="") as file:
        rows = {row["name"]: row["shape"] for row in csv.DictReader(file)}
    assert {name: "x".join(map(str, entry.shape)) for name, entry in state.items()} == rows
    assert len(rows) == 410


@pytest.mark.parametrize(
    ("levels", "with_heads", "without_heads"), [(4, 27_343_636, 25_077_440), (3, 27_047_316, 24_781_120)]
)
def test_parameter_counts_at_default_args(levels, with_heads, without_heads):
    with torch.device("meta"):
        model = build_transformer(ModelArgs(num_feature_levels=levels))
    assert count(model) == with_heads
    heads = [model.decoder.pose_embed, model.decoder.class_embed, model.decoder.bbox_embed, model.enc_pose_embed, model.enc_out_class_embed]
    assert with_heads - sum(map(count, heads)) == without_heads


def test_one_layer_of_each_kind_has_its_published_size():
    with torch.device("meta"):
        model = build_transformer(ModelArgs())
    assert count(model.encoder.layers[0]) == 1_282_176
    assert count(model.decoder.layers[0]) == 2_863_520


def test_the_switches_change_the_state_dict_as_described(tiny_args):
    names = set(build_transformer(tiny_args).state_dict())
    assert set(build_transformer(dataclasses.replace(tiny_args, pre_norm=True)).state_dict()) - names == {
        "encoder.norm.weight", "encoder.norm.bias",
    }
    constant = build_transformer(dataclasses.replace(tiny_args, within_type="attn"))
    assert names - set(constant.state_dict()) == {f"decoder.layers.{i}.adjacent_matrix" for i in range(3)}
    assert constant.decoder.layers[0].adjacent_matrix.unique().tolist() == pytest.approx([1e-8])
    assert set(build_transformer(dataclasses.replace(tiny_args, learnable_tgt_init=True)).state_dict()) - names == {"tgt_embed"}


def test_pre_norm_normalises_the_memory(tiny_args, tiny_workload):
    from humar_bench.subjects.transformer import make_inputs

    model = build_transformer(dataclasses.replace(tiny_args, pre_norm=True)).eval()
    memory = model(*make_inputs(tiny_args, tiny_workload))[4][0]
    assert_close(memory.mean(1), torch.zeros_like(memory.mean(1)), scale=largest(memory), terms=memory.shape[1])


def test_initialisation_follows_the_description():
    attention = DeformableAttention(channels=16, heads=4, levels=2, points=4)
    attention.reset_own_parameters()
    bias = attention.sampling_offsets.bias.view(4, 2, 4, 2)  # heads, levels, points, (x, y)
    rays = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    expected = rays.view(4, 1, 1, 2) * torch.arange(1, 5).view(1, 1, 4, 1)
    assert_close(bias, expected.expand(4, 2, 4, 2))
    assert not attention.sampling_offsets.weight.any() and not attention.attention_weights.weight.any()
    odd = DeformableAttention(channels=16, heads=4, levels=2, points=3)
    odd.reset_own_parameters()
    assert not odd.sampling_offsets.bias.any()

    torch.manual_seed(0)
    model = build_transformer(ModelArgs(hidden_dim=64, nheads=8, dim_feedforward=64, enc_layers=1, dec_layers=2)).requires_grad_(False)
    layer = model.decoder.layers[0]
    bound = math.sqrt(6 / (64 + 64))  # Xavier uniform of a 64 x 64 matrix
    assert bound * 0.95 < model.enc_output.weight.abs().max() <= bound
    assert layer.adjacent_matrix.any()
    assert model.level_embed.std() == pytest.approx(1, rel=0.15)
    for head in (*model.decoder.pose_embed, *model.decoder.bbox_embed, model.enc_pose_embed):
        assert not head.layers[-1].weight.any() and not head.layers[-1].bias.any()
        assert head.layers[0].bias.any()  # torch's default for the rest
    for head in (*model.decoder.class_embed, model.enc_out_class_embed):
        assert torch.equal(head.bias, torch.full_like(head.bias, -math.log(99)))


def test_deformable_attention_equals_a_sum_written_out_by_hand():
    """Bilinear samples with zeros outside, computed cell by cell."""
    torch.manual_seed(0)
    shapes, heads, depth, points = [(3, 4), (2, 2)], 2, 3, 2
    value = torch.randn(1, 16, heads, depth, dtype=torch.float64)
    locations = torch.rand(1, 5, heads, len(shapes), points, 2, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand(1, 5, heads, len(shapes), points, dtype=torch.float64)
    expected = torch.zeros(1, 5, heads, depth, dtype=torch.float64)
    starts = [0, 12]
    for t in range(5):
        for m in range(heads):
            for level, (height, width) in enumerate(shapes):
                for p in range(points):
                    x, y = (locations[0, t, m, level, p] * torch.tensor([width, height]) - 0.5).tolist()
                    for row in (math.floor(y), math.floor(y) + 1):
                        for column in (math.floor(x), math.floor(x) + 1):
                            if 0 <= row < height and 0 <= column < width:
                                share = (1 - abs(x - column)) * (1 - abs(y - row)) * weights[0, t, m, level, p]
                                expected[0, t, m] += share * value[0, starts[level] + row * width + column, m]
    made = deformable_attention(value, shapes, locations, weights)
    assert_close(made, expected.flatten(2), scale=4 * largest(value), terms=4 * len(shapes) * points)  # places are as exact as a side, 4


def test_the_outer_model_may_put_its_own_heads_in_place(tiny_args, tiny_workload):
    from humar_bench.subjects.transformer import make_inputs

    model = build_transformer(tiny_args).double().eval()  # a logit is only as exact as p (1 - p) is large
    zero = torch.nn.ModuleList(torch.nn.Linear(32, 2) for _ in range(3))
    for head in zero:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, 0.5)
    model.decoder.pose_embed = zero.double()
    points = model(*make_inputs(tiny_args, tiny_workload, dtype=torch.float64))[1]
    first, second = (torch.logit(points[i].unflatten(-1, (-1, 2))[:, :, 1:], eps=1e-3) for i in (0, 1))
    inside = first.abs() < 6
    assert inside.any()
    assert_close((second - first)[inside], torch.full_like(first, 0.5)[inside], scale=math.exp(6))  # 1 / (p (1 - p)) at a logit of 6
