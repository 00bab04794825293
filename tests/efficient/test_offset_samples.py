"""Heads that sample at learned offsets: where they look, that they stay on their level, and what they cost."""

from __future__ import annotations

import pytest
import torch

from efficient import build_efficient_conv_attention_transformer
from efficient.layers import RING
from efficient.samples import Ground, OffsetSamples
from humar_bench.args import ModelArgs
from humar_bench.errors import UsageError
from tests.tolerance import assert_close

HIGH, WIDE = 8, 12


def a_look(canvas: torch.Tensor, heads: int, size: float = 2) -> tuple[torch.Tensor, Ground]:
    """One level that is the whole canvas [B, C, H, W], or with a size of 1 its left upper quarter."""
    B = len(canvas)
    corners, extents = canvas.new_full((1, 2), -1), canvas.new_full((B, 1, 2), size)
    token = canvas.new_tensor([2 / canvas.shape[3], 2 / canvas.shape[2]])
    return canvas.unflatten(1, (heads, -1)).flatten(0, 1), Ground.of(corners, extents, token)


def samples_of(heads: int, channels: int) -> OffsetSamples:
    """Heads whose samples come out as they are."""
    layer = OffsetSamples(channels, levels=1, heads=heads).double()
    layer.reset_own_parameters()
    torch.nn.init.eye_(layer.out.weight)
    torch.nn.init.zeros_(layer.out.bias)
    return layer


def ramp(channels: int) -> torch.Tensor:
    """A canvas whose even channels hold a token's column and whose odd ones its row."""
    y, x = torch.meshgrid(torch.arange(HIGH).double(), torch.arange(WIDE).double(), indexing="ij")
    return torch.stack([x, y] * (channels // 2)).unsqueeze(0)


def test_each_head_begins_a_sixth_of_a_token_away_in_a_direction_of_its_own():
    layer, look = samples_of(4, 8), a_look(ramp(8), 4)
    point = torch.tensor([[[[(5 + 0.5) / WIDE, (3 + 0.5) / HIGH]]]], dtype=torch.float64)
    taken = layer(torch.randn(1, 1, 1, 8).double(), point, *look).view(4, 2)
    assert_close(taken, torch.tensor([[5.17, 3], [5, 3.17], [4.83, 3], [5, 2.83]], dtype=torch.float64), terms=8)


def test_a_token_moves_its_own_samples():
    layer, look = samples_of(1, 2), a_look(ramp(2), 1)
    with torch.no_grad():
        layer.offsets.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, -1.0]]))
        layer.offsets.bias.zero_()
    points = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    taken = layer(torch.tensor([[[[0.0, 0.0], [1.0, 2.0]]]]).double(), points, *look)
    assert_close(taken[0, 0, 1] - taken[0, 0, 0], torch.tensor([2.0, -2.0]).double(), terms=8)


def test_a_sample_never_leaves_the_valid_part_of_its_level():
    """Whatever lies beyond is not seen, however far an offset points."""
    layer, look = samples_of(2, 4), a_look(ramp(4), 2, size=1)
    with torch.no_grad():
        layer.offsets.bias.fill_(1e6)
    points = torch.rand(1, 3, 5, 2, dtype=torch.float64)
    x = torch.randn(1, 3, 5, 4).double()
    before = layer(x, points, *look)
    canvas, ground = look[0].clone(), look[1]
    canvas[:, :, HIGH // 2 + 1 :], canvas[:, :, :, WIDE // 2 + 1 :] = torch.nan, torch.nan
    assert torch.equal(layer(x, points, canvas, ground), before) and before.isfinite().all()


def test_sampling_heads_cost_few_parameters(say):
    def count(**changes):
        with torch.device("meta"):
            return sum(p.numel() for p in build_efficient_conv_attention_transformer(ModelArgs(**changes)).parameters())

    more = count() - count(efficient_sample_heads=1)
    say(f"8 sampling heads instead of one: {more:,} parameters more")
    assert more == 2 * 257 * 3 * 7 * 4 and count() == count(efficient_sample_heads=8)  # of the encoder's tokens and of the decoder's


@pytest.mark.parametrize("changes", [
    {"efficient_sample_heads": 3},
    {"efficient_sample_heads": 4, "efficient_point_samples": False, "efficient_encoder_samples": False},
])
def test_heads_that_cannot_be_are_refused(changes):
    with pytest.raises(UsageError, match="efficient_sample_heads"):
        ModelArgs(**changes)


def test_samples_begin_as_rings_around_the_point():
    samples = OffsetSamples(8, levels=3, heads=4, points=2)
    samples.reset_own_parameters()
    rings = samples.offsets.bias.detach().view(4, 3, 2, 2)
    assert_close(rings.norm(dim=-1), torch.tensor([RING, 2 * RING]).expand(4, 3, 2), terms=2)
    assert_close(rings[1, :, 0], torch.tensor([0, RING]).expand(3, 2), scale=RING, terms=2)
    assert not samples.offsets.weight.any()
