"""Local windows beside the linear attention: how a canvas is cut, who sees whom, and that padding is never seen."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from efficient import build_efficient_conv_attention_transformer
from efficient.canvas import Canvas
from efficient.windows import cut, join, window_attention, windows_of
from humar_bench.subjects.transformer import make_inputs
from tests.models import outputs_by_name, shaken
from tests.tolerance import assert_close

SIZES = [[(9, 7), (5, 4), (3, 2), (2, 1)], [(8, 8)] * 3, [(3, 4), (8, 9)], [(1, 1)]]


def whole(shapes: list[tuple[int, int]], stride: int) -> tuple[Canvas, torch.Tensor]:
    """A canvas and where its cells hold a token, [1, h, w, 1]."""
    canvas = Canvas(shapes, stride)
    valid = canvas.place([torch.ones(1, *size, 1) for size in shapes])
    return canvas, canvas.pool(valid, valid)[1]


@pytest.mark.parametrize("side", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shapes", SIZES)
def test_what_is_cut_is_joined_again_and_no_window_holds_two_levels(shapes, stride, side):
    canvas, valid = whole(shapes, stride)
    windows = windows_of(canvas, valid, side)
    cells = torch.randn(2, canvas.h, canvas.w, 3) * valid
    assert torch.equal(join(cut(cells, windows), windows, 2), cells)
    owner = valid.clone()
    for level, slot in enumerate(canvas.cell_slots):
        owner[(slice(None), *slot)] = level + 1.0
    owners = cut(owner, windows).squeeze(-1)
    assert ((owners == 0) | (owners == owners.amax(1, keepdim=True))).all()
    assert torch.equal(windows.bias.flatten(1) == 0, owners > 0)


def test_it_is_softmax_attention_among_the_cells_of_one_window():
    """5 x 4 cells in windows of 2: the cell in the last row sees its neighbour on the right alone, the others lie beyond the level."""
    torch.manual_seed(0)
    canvas, valid = whole([(5, 4)], 1)
    windows, qkv = windows_of(canvas, valid, 2), torch.randn(1, 20, 3 * 6, dtype=torch.float64)
    made = window_attention(qkv, windows, heads=2).view(5, 4, 2, 3)
    q, k, v = qkv.view(5, 4, 3, 2, 3).unbind(2)
    for row, column, seen in [(0, 1, [(0, 0), (0, 1), (1, 0), (1, 1)]), (3, 2, [(2, 2), (2, 3), (3, 2), (3, 3)]), (4, 0, [(4, 0), (4, 1)])]:
        keys, values = (torch.stack([each[at] for at in seen]) for each in (k, v))
        weights = ((q[row, column] * keys).sum(-1) / 3**0.5).softmax(0)
        assert_close(made[row, column], (weights[..., None] * values).sum(0), terms=4 * 6)


def test_padding_is_not_seen_and_a_window_of_nothing_else_stays_finite():
    torch.manual_seed(0)
    canvas, valid = whole([(4, 4)], 1)
    valid[:, 1:, 1:] = 0  # three windows with one or two cells, one with none
    windows, qkv = windows_of(canvas, valid, 2), torch.randn(1, 16, 12)
    noisy = torch.where(valid.flatten(1, 2) == 0, 1e6 * torch.randn_like(qkv), qkv)
    plain, other = (window_attention(each, windows, heads=2) for each in (qkv, noisy))
    there = valid.flatten() > 0
    assert torch.equal(plain[:, there], other[:, there]) and other.isfinite().all()


def test_the_windows_stand_beside_the_linear_attention(tiny_args, tiny_workload):
    """The same weights with and without; a window of one cell adds that cell's own value."""
    args = dataclasses.replace(tiny_args, efficient_window=1)
    model, plain = (shaken(build_efficient_conv_attention_transformer(each)).double() for each in (args, tiny_args))
    plain.load_state_dict(model.state_dict())
    inputs = make_inputs(tiny_args, tiny_workload, dtype=torch.float64)
    one, two = (outputs_by_name(each(*inputs))["memory_features_0"] for each in (model, plain))
    assert not torch.equal(one, two)
    attention = model.encoder.sets[0].attention
    canvas, valid = whole([(3, 4)], 1)
    x = torch.randn(1, 12, args.hidden_dim, dtype=torch.float64)
    more = attention(x, None, (3, 4), windows_of(canvas, valid, 1)) - attention(x, None, (3, 4))
    own = attention.qkv(x)[..., 2 * args.hidden_dim :] @ attention.out.weight.T
    assert_close(more, own, terms=args.hidden_dim**2)
