"""The kernels against plain PyTorch, run by Triton's interpreter. `tests/test_kernels.py` starts this file with TRITON_INTERPRET=1."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from baselines import build_fused_transformer, build_transformer
from baselines.deformable_attention import deformable_attention
from baselines.deformable_op import INTERPRETED, deformable_attention_op
from humar_bench.args import ModelArgs, Workload
from humar_bench.inputs import make_inputs
from tests.models import fill_from_names, outputs_by_name

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
SHORT = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
TYPES = st.sampled_from([torch.float32, torch.bfloat16])


def test_the_kernels_are_interpreted():
    assert os.environ["TRITON_INTERPRET"] == "1" and INTERPRETED


@settings(max_examples=12, **SHORT)
@given(
    st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=3), st.integers(1, 2), st.integers(1, 9),
    st.integers(1, 3), st.integers(1, 40), st.integers(1, 4), TYPES, st.booleans(), st.integers(0, 10**6),
)  # fmt: skip
@example([(3, 4), (2, 1)], 2, 5, 2, 600, 2, torch.float32, True, 1)  # one token a program
def test_the_deformable_kernel(sizes, batch, tokens, heads, depth, samples, dtype, strided, seed):
    draw = torch.Generator().manual_seed(seed)
    memory, levels = sum(height * width for height, width in sizes), len(sizes)
    wide = torch.randn(batch, memory, heads, 2 * depth, generator=draw).to(dtype)
    value = wide[..., ::2] if strided else wide[..., :depth]  # a stride in the last dimension, or in the one before
    padding = (torch.rand(batch, 2 * memory, generator=draw) < 0.3)[:, ::2]
    both = torch.randn(batch, tokens, heads * levels * samples * 3, generator=draw).to(dtype)
    offsets, logits = both.split((heads * levels * samples * 2, heads * levels * samples), dim=-1)
    offsets = 10.0 ** float(torch.randint(-1, 12, (), generator=draw)) * offsets.unflatten(-1, (heads, levels, samples, 2))
    logits = logits.unflatten(-1, (heads, levels * samples))
    points = torch.rand(batch, tokens, 2, levels, generator=draw).transpose(-1, -2)
    extent = torch.tensor([[width, height] for height, width in sizes]).float()
    blank = value.masked_fill(padding[:, :, None, None], 0).float()
    value = value.masked_fill(padding[:, :, None, None], float("nan"))  # what is padding is not even read

    made = deformable_attention_op(value, padding, offsets, logits, points, extent, [side for size in sizes for side in size])
    locations = points[:, :, None, :, None].double() + offsets.double() / extent[:, None]
    weights = logits.double().softmax(-1).unflatten(-1, (levels, samples))
    expected = deformable_attention(blank.double(), sizes, locations, weights)
    assert made.dtype == dtype and made.shape == (batch, tokens, heads * depth)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(made.double(), expected, atol=tolerance, rtol=tolerance)


def test_no_query_token_gives_an_empty_result():
    value, points = torch.zeros(1, 2, 1, 4), torch.zeros(1, 0, 1, 2)
    made = deformable_attention_op(
        value, torch.zeros(1, 2, dtype=torch.bool), torch.zeros(1, 0, 1, 1, 1, 2), torch.zeros(1, 0, 1, 1), points,
        torch.tensor([[2.0, 1.0]]), [1, 2],
    )  # fmt: skip
    assert made.shape == (1, 0, 4)


@pytest.mark.parametrize("padded", [False, True])
def test_the_original_through_the_kernel(padded):
    args = ModelArgs(
        hidden_dim=24, nheads=2, dim_feedforward=16, enc_layers=1, dec_layers=2, enc_n_points=3, num_feature_levels=2, num_queries=3,
        num_body_points=4,
    )
    workload = dataclasses.replace(Workload("interpreted", 2, 3, ((4, 5), (2, 3))), padded=padded)
    original, fused = build_transformer(args).eval(), build_fused_transformer(args).eval()
    fill_from_names(original)
    fused.load_state_dict(original.state_dict())
    inputs = make_inputs(args, workload)
    with torch.inference_mode():
        expected, made = outputs_by_name(original(*inputs)), outputs_by_name(fused(*inputs))
    for name, value in expected.items():
        torch.testing.assert_close(made[name], value, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
