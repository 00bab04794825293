"""What a token of the encoder takes from every level around itself: from the same place, of the valid part alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from efficient import build_efficient_conv_attention_transformer
from efficient.canvas import Canvas
from efficient.samples import Ground, OffsetSamples, SamplesInTurn
from humar_bench.args import ModelArgs
from humar_bench.backends import prepare
from humar_bench.subjects.transformer import make_inputs
from tests.models import shaken
from tests.tolerance import assert_close

SIZES = [(8, 12), (4, 6)]


def encoder_of(args: ModelArgs, **changes):
    torch.manual_seed(0)
    return build_efficient_conv_attention_transformer(dataclasses.replace(args, num_feature_levels=2, **changes)).double().encoder


def some_tokens(canvas: Canvas, channels: int, ratio: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens of one picture on a canvas and which are valid: that share of each level's width."""
    torch.manual_seed(1)
    valid = torch.zeros(1, *canvas.size, 1, dtype=torch.float64)
    for rows, columns in canvas.slots:
        valid[:, rows, columns.start : columns.start + round(ratio * (columns.stop - columns.start))] = 1
    return torch.randn(*valid.shape[:3], channels, dtype=torch.float64) * valid, valid


def ratios(ratio: float) -> torch.Tensor:
    return torch.tensor([[[ratio, 1.0], [ratio, 1.0]]], dtype=torch.float64)


def test_the_middle_of_a_token_is_told_in_shares_of_the_valid_part():
    canvas = Canvas([(5, 3), (2, 3)], 2)
    shares = torch.tensor([[[1, 1], [1, 1]], [[0.5, 1], [1, 0.5]]], dtype=torch.float64)
    centres = Ground.on(canvas, shares).centres(canvas)
    (rows, columns), (rows2, columns2) = canvas.slots
    assert_close(centres[0, rows, columns, 0], torch.tensor([1, 3, 5], dtype=torch.float64).expand(5, 3) / 6, scale=1, terms=16)
    assert_close(centres[0, rows, columns, 1].T, torch.tensor([1, 3, 5, 7, 9], dtype=torch.float64).expand(3, 5) / 10, scale=1, terms=16)
    assert_close(centres[1, rows, columns, 0], centres[0, rows, columns, 0] * 2, scale=1, terms=16)
    assert_close(centres[1, rows2, columns2, 1], centres[0, rows2, columns2, 1] * 2, scale=1, terms=16)
    between = torch.ones(centres.shape[1:3], dtype=torch.bool)
    between[rows, columns] = between[rows2, columns2] = False
    assert between.any() and not centres[:, between].any()


@pytest.mark.parametrize("ratio", [1, 0.5])
def test_a_token_hears_of_the_other_level_at_its_own_place(tiny_args, ratio):
    """One token of the small level is changed: those of the large one hear of it that lie within one of its tokens, no others."""
    encoder, canvas = encoder_of(tiny_args), Canvas(SIZES, 2)
    x, valid = some_tokens(canvas, tiny_args.hidden_dim, ratio)
    before = encoder._around(x, valid, canvas, ratios(ratio))
    (rows, columns), row, column = canvas.slots[1], 2, 1
    x[0, rows.start + row, columns.start + column, 0] += 1
    changed = (encoder._around(x, valid, canvas, ratios(ratio)) != before).any(-1)[0]
    large, small = (changed[slot] for slot in canvas.slots)
    heard = {tuple(at) for at in large.nonzero().tolist()}
    assert {(2 * row + y, 2 * column + x) for y in (0, 1) for x in (0, 1)} <= heard
    assert heard <= {(2 * row + y, 2 * column + x) for y in range(-2, 4) for x in range(-2, 4)} and len(heard) < large.numel() / 2
    assert small[row, column]


def test_what_lies_in_padding_is_not_heard_of(tiny_args):
    encoder, canvas = shaken(encoder_of(tiny_args)), Canvas(SIZES, 2)
    x, valid = some_tokens(canvas, tiny_args.hidden_dim, 0.5)
    before, after = (encoder._around(each, valid, canvas, ratios(0.5)) for each in (x, x + 7 * torch.randn_like(x) * (1 - valid)))
    seen = valid.bool().expand_as(before)
    assert torch.equal(before[seen], after[seen])


def test_what_is_sampled_is_half_as_wide_where_the_heads_divide_that(tiny_args):
    whole, half = encoder_of(tiny_args, hidden_dim=12, nheads=4).samples, encoder_of(tiny_args, hidden_dim=16, nheads=4).samples
    assert whole.value.out_features == whole.out.in_features == 12 and half.value.out_features == half.out.in_features == 8


def test_samples_in_turn_are_the_same_as_all_at_once():
    torch.manual_seed(0)
    at_once, in_turn = (kind(8, levels=2, heads=2, points=3).double() for kind in (OffsetSamples, SamplesInTurn))
    in_turn.load_state_dict(shaken(at_once).state_dict())
    canvas, x = Canvas(SIZES, 2), torch.randn(1, 5, 4, 8, dtype=torch.float64, requires_grad=True)
    values = at_once.sampled(torch.randn(1, *canvas.size, 8, dtype=torch.float64))
    ground, points = Ground.on(canvas, ratios(0.5)), torch.rand(1, 5, 4, 2, dtype=torch.float64)
    one, other = (layer(x, points, values, ground) for layer in (at_once, in_turn))
    assert_close(one, other, terms=8 * 6)
    assert_close(*(torch.autograd.grad(each.square().sum(), x)[0] for each in (one, other)), terms=8 * 6 * 8)


def test_what_is_taken_is_added_to_the_tokens(tiny_args):
    """With a projection of zero the memory is what it is without samples, else another."""
    encoder = shaken(encoder_of(tiny_args))
    maps = [torch.randn(1, tiny_args.hidden_dim, *size, dtype=torch.float64) for size in SIZES]
    inputs = (maps, [torch.zeros_like(each) for each in maps], None, torch.zeros(1, 8 * 12 + 4 * 6, dtype=torch.bool), ratios(1))
    with_samples = encoder(*inputs)
    with torch.no_grad():
        encoder.samples.out.weight.zero_()
        encoder.samples.out.bias.zero_()
    with_zeros, encoder.samples = encoder(*inputs), None
    assert torch.equal(with_zeros, encoder(*inputs)) and not torch.allclose(with_zeros, with_samples)


def test_without_them_there_is_nothing_of_them(tiny_args):
    with_samples, without = encoder_of(tiny_args), encoder_of(tiny_args, efficient_encoder_samples=False)
    names = {name for name, _ in with_samples.named_parameters()} - {name for name, _ in without.named_parameters()}
    assert names and all(name.startswith("samples.") for name in names) and without.samples is None


def test_the_samples_run_with_quantised_linear_layers(tiny_args, tiny_workload):
    """Their weight is a method, so nothing is asked of it."""
    model, inputs = build_efficient_conv_attention_transformer(tiny_args).eval(), make_inputs(tiny_args, tiny_workload)
    prepared = prepare("eager", model, inputs, dtype="int8")
    with torch.inference_mode():
        assert prepared.call(*inputs)[0][-1].isfinite().all()
