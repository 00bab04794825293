"""The kernels against plain PyTorch, run by Triton's interpreter: tests/baselines/test_kernels.py starts this file with
TRITON_INTERPRET=1."""

from __future__ import annotations

import dataclasses
import functools
import os

import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from baselines import build_fused_transformer, build_transformer
from baselines.deformable_attention import deformable_attention
from baselines.deformable_op import deformable_attention_op
from efficient import build_efficient_conv_attention_transformer, build_fused_efficient_transformer
from efficient.kernel_ops import depthwise_conv_op, linear_attention_op
from efficient.layers import NO_WEIGHT, linear_attention, merge_heads, split_heads
from humar_bench.args import ModelArgs, Workload
from humar_bench.skeleton.kernels import INTERPRETED
from humar_bench.subjects.transformer import make_inputs
from tests.models import SWITCHES, fill_from_names, shaken
from tests.tolerance import assert_close, assert_outputs_close, chained_terms, largest

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
SHORT = {  # no shrinking: interpreted, it would take minutes
    "deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck), "phases": (Phase.explicit, Phase.generate),
}  # fmt: skip
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
    scale = largest(blank) * max(map(max, sizes))  # places are as exact as the sides of a level
    assert_close(made, expected, dtype=torch.float32, scale=scale, terms=4 * levels * samples)


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
        made, expected = fused(*inputs), original.double()(*make_inputs(args, workload, dtype=torch.float64))
    assert_outputs_close(made, expected, terms=chained_terms(original), dtype=torch.float32)


@settings(max_examples=10, **SHORT)
@given(st.integers(1, 2), st.integers(1, 200), st.integers(1, 3), st.integers(1, 40), TYPES, st.booleans(), st.integers(0, 10**6))
@example(1, 64 * 33 + 1, 1, 8, torch.float32, True, 0)  # more blocks of tokens than splits, and one token over
def test_the_linear_attention_kernels(batch, tokens, heads, depth, dtype, counted, seed):
    draw = torch.Generator().manual_seed(seed)
    width = heads * depth
    qkv = torch.randn(batch, tokens, 6 * width, generator=draw).to(dtype)[..., width : 4 * width]
    counts = torch.where(torch.rand(batch, tokens, 1, generator=draw) < 0.3, NO_WEIGHT, 1.0) if counted else None
    made = linear_attention_op(qkv, counts, heads)
    q, k, v = (split_heads(each, heads).double() for each in qkv.chunk(3, dim=-1))
    exact = None if counts is None else counts.double()
    v = v if exact is None else v * exact.unsqueeze(1)
    expected = merge_heads(linear_attention(torch.stack((q, k)), v, exact))
    assert made.dtype == dtype and made.is_contiguous()
    assert_close(made, expected, dtype=torch.float32, scale=largest(v), terms=tokens + depth)


@settings(max_examples=10, **SHORT)
@given(
    st.integers(1, 2), st.integers(1, 9), st.integers(1, 9), st.integers(1, 70), TYPES, st.booleans(), st.booleans(),
    st.integers(0, 10**6),
)  # fmt: skip
def test_the_depthwise_kernel(batch, height, width, channels, dtype, masked, added, seed):
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    canvas = normal(batch, height, width, 3 * channels)[..., channels : 2 * channels]
    weight, bias, residual = normal(channels, 1, 3, 3), normal(channels), normal(batch, width, height, channels).transpose(1, 2)
    valid = (torch.rand(batch, height, width, 1, generator=draw) < 0.7).float() if masked else None
    made = depthwise_conv_op(canvas, weight, bias, valid, residual if added else None)
    maps = (canvas.double() if valid is None else canvas.double() * valid).permute(0, 3, 1, 2)
    convolved = functools.partial(torch.nn.functional.conv2d, padding=1, groups=channels)
    expected = convolved(maps, weight.double(), bias.double()).permute(0, 2, 3, 1) + residual.double() * added
    scale = largest(convolved(maps.abs(), weight.double().abs(), bias.double().abs())) + largest(residual)
    assert made.dtype == dtype and made.is_contiguous()
    assert_close(made, expected, dtype=torch.float32, scale=scale, terms=11)


@pytest.mark.parametrize("switch", [SWITCHES[0], {"efficient_encoder_stride": 1}, {"efficient_value_conv": False}])
def test_the_replacement_through_its_kernels(switch):
    args = ModelArgs(
        hidden_dim=16, num_feature_levels=2, num_queries=3, num_body_points=4, dec_layers=1, efficient_nheads=2, efficient_enc_layers=1,
        efficient_encoder_sets=1, **switch,
    )  # fmt: skip
    workload = Workload("interpreted", 2, 3, ((4, 5), (2, 3)), padded=True)
    plain, fused = shaken(build_efficient_conv_attention_transformer(args)), build_fused_efficient_transformer(args).eval()
    fused.load_state_dict(plain.state_dict(), strict=True)
    inputs = make_inputs(args, workload)
    with torch.inference_mode():
        made, expected = fused(*inputs), plain.double()(*make_inputs(args, workload, dtype=torch.float64))
    assert_outputs_close(made, expected, terms=chained_terms(plain), dtype=torch.float32)
