"""Bilinear samples of all levels at learned offsets: how a decoder's token looks into the memory, and an encoder's cell at other levels.

Source: deformable attention, Zhu et al. 2021, equation 2, with one `grid_sample` for all levels, which lie on one canvas.

Shapes: B batch, L levels, C width, Q queries, N tokens of an instance, M heads, D = C / M, (H, W) the canvas, P samples a head.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficient.canvas import Canvas
from efficient.layers import RING


class Ground(NamedTuple):
    """Where each level's valid part lies on the canvas, which spans -1 to 1."""

    corners: Tensor  # [L, 2], where a reference point of 0 lies
    extents: Tensor  # [B, L, 2], how far from there a reference point of 1 lies
    token: Tensor  # [2], what an offset counts: a token's width and height, or a cell's
    most: Tensor  # [B, 1, 1, 1, L, 1, 2], where a reference point of 1 lies

    @classmethod
    def of(cls, corners: Tensor, extents: Tensor, token: Tensor) -> Ground:
        return cls(corners, extents, token, (corners + extents)[:, None, None, None, :, None])

    @classmethod
    def on(cls, canvas: Canvas, valid_ratios: Tensor, *, unit: int = 1) -> Ground:
        """Of a canvas whose levels are valid so far, valid_ratios [B, L, 2]; offsets count `unit` tokens each."""
        corners, sizes, token = canvas.slots_in_unit_square(like=valid_ratios)
        return cls.of(corners, valid_ratios * sizes, token if unit == 1 else token * unit)


class OffsetSamples(nn.Module):
    """Bilinear samples of every level for each head, at learned offsets from the token's reference point, weighed by the token.

    Deformable attention (Zhu et al. 2021, equation 2), by default with one point a head and level. Each head reads its share of the
    channels, so any number of heads costs about the same. Offsets are in tokens of the level and begin as a small ring around the point,
    one ring a point; a sample never leaves the valid part of its level. Shape: P samples a head, those of all levels.
    """

    def __init__(self, channels: int, *, levels: int, heads: int, points: int = 1) -> None:
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.value = nn.Linear(channels, channels)
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.level_weights = nn.Linear(channels, heads * levels * points)
        self.out = nn.Linear(channels, channels)

    def reset_own_parameters(self) -> None:
        """Offsets that do not depend on the token at first: point p of head m looks p `RING` of a token away in direction m of M."""
        angles = torch.arange(self.heads, dtype=torch.float64) * (2 * math.pi / self.heads)
        radii = RING * torch.arange(1, self.points + 1, dtype=torch.float64)
        ring = torch.stack((angles.cos(), angles.sin()), dim=-1)[:, None, None] * radii[:, None]
        ring = ring.expand(-1, self.levels, -1, -1)
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            self.offsets.bias.copy_(ring.flatten())

    def sampled(self, canvas: Tensor) -> Tensor:
        """A canvas of values [B, H, W, C], zero at padding and between the levels, as the heads sample it: [B * M, D, H, W]."""
        return canvas.permute(0, 3, 1, 2).unflatten(1, (self.heads, -1)).flatten(0, 1)

    def forward(self, x: Tensor, points: Tensor, canvas: Tensor, ground: Ground) -> Tensor:
        """x [B, Q, N, C] at points [B, Q, N, 2], `sampled` canvas and its ground -> [B, Q, N, C]."""
        shape = (self.heads, self.levels, self.points)
        places = torch.addcmul(ground.corners, points[:, :, :, None], ground.extents[:, None, None])[:, :, :, None, :, None]
        places = places + self.offsets(x).unflatten(-1, (*shape, 2)).to(places.dtype) * ground.token  # [B, Q, N, M, L, points, 2]
        places = torch.minimum(torch.maximum(places, ground.corners[:, None]), ground.most).flatten(4, 5)
        places = places.permute(0, 3, 1, 2, 4, 5).flatten(0, 1).flatten(2, 3)  # [B*M, Q, N*P, 2]
        samples = F.grid_sample(canvas.to(places.dtype), places, align_corners=False)  # [B*M, D, Q, N*P]
        weights = self.level_weights(x).unflatten(-1, (self.heads, -1)).softmax(-1).permute(0, 3, 1, 2, 4).flatten(0, 1)[:, None]
        samples = samples.unflatten(-1, (x.shape[2], -1))
        samples = samples * weights if torch.is_grad_enabled() else samples.mul_(weights)  # large at many queries
        taken = samples.sum(-1).unflatten(0, (-1, self.heads)).flatten(1, 2)  # [B, C, Q, N]
        return self.out(taken.permute(0, 2, 3, 1).contiguous().to(x.dtype))
