"""Bilinear samples of all levels at learned offsets: how a token of the decoder looks into the memory, one of the encoder at other levels.

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
    """Where each level's valid part lies on the canvas, which spans -1 to 1; fits places [B, M, L, points, Q, N, 2]."""

    corners: Tensor  # [L, 1, 1, 1, 2], where a reference point of 0 lies
    extents: Tensor  # [B, 1, L, 1, 1, 1, 2], how far from there a reference point of 1 lies
    token: Tensor  # [2], a token's width and height
    most: Tensor  # [B, 1, L, 1, 1, 1, 2], where a reference point of 1 lies

    @classmethod
    def of(cls, corners: Tensor, extents: Tensor, token: Tensor) -> Ground:
        """corners [L, 2], extents [B, L, 2], token [2]."""
        corners, extents = corners[:, None, None, None], extents[:, None, :, None, None, None]
        return cls(corners, extents, token, corners + extents)

    @classmethod
    def on(cls, canvas: Canvas, valid_ratios: Tensor) -> Ground:
        """Of a canvas whose levels are valid so far, valid_ratios [B, L, 2]."""
        corners, sizes, token = canvas.slots_in_unit_square(like=valid_ratios)
        return cls.of(corners, valid_ratios * sizes, token)

    def centres(self, canvas: Canvas) -> Tensor:
        """The middle of each token of the canvas as a reference point: [B, H, W, 2], beyond 1 in padding, 0 between the levels."""
        high, wide = canvas.size
        y, x = (torch.arange(0.5, side, device=self.token.device, dtype=self.token.dtype) for side in (high, wide))
        middle = torch.stack((x.expand(high, wide), y.unsqueeze(1).expand(high, wide)), dim=-1) * self.token - 1
        points = middle.new_zeros(len(self.extents), high, wide, 2)
        for slot, corner, extent in zip(canvas.slots, self.corners, self.extents.unbind(2), strict=True):
            points[:, *slot] = (middle[slot] - corner[0]) / extent[:, 0, 0]
        return points


class OffsetSamples(nn.Module):
    """Bilinear samples of every level for each head, at learned offsets from the token's reference point, weighed by the token.

    Deformable attention (Zhu et al. 2021, equation 2), by default with one point a head and level. Each head reads its share of the
    channels, so any number of heads costs about the same. Offsets are in tokens of the level and begin as a small ring around the point,
    one ring a point; a sample never leaves the valid part of its level. Shape: P samples a head, those of all levels.
    """

    def __init__(self, channels: int, *, levels: int, heads: int, points: int = 1, width: int | None = None) -> None:
        """`width` of what is sampled, all heads together; None: as wide as the tokens."""
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.value = nn.Linear(channels, width or channels)
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.level_weights = nn.Linear(channels, heads * levels * points)
        self.out = nn.Linear(width or channels, channels)

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
        places, weights = self._asked(x, points, ground)
        samples = F.grid_sample(canvas.to(places.dtype), places.flatten(1, 2), align_corners=False).unflatten(2, places.shape[1:3])
        samples = samples * weights if torch.is_grad_enabled() else samples.mul_(weights)  # [B*M, D, P, Q, N], large at many queries
        return self._joined(samples.sum(2), x.dtype)

    def _asked(self, x: Tensor, points: Tensor, ground: Ground) -> tuple[Tensor, Tensor]:
        """Where x [B, Q, N, C] at points [B, Q, N, 2] samples, [B * M, P, Q, N, 2], and what each sample counts, [B * M, 1, P, Q, N].

        The tokens lie last, so that what is done for each sample runs along them: a head has as few as three samples.
        """
        shape = (self.heads, self.levels, self.points)
        offsets = self.offsets(x).unflatten(-1, (*shape, 2)).permute(0, 3, 4, 5, 1, 2, 6).contiguous().to(points.dtype)
        places = torch.addcmul(ground.corners, points[:, None, None, None], ground.extents)  # [B, 1, L, 1, Q, N, 2]
        places = torch.addcmul(places, offsets, ground.token)
        places = torch.minimum(torch.maximum(places, ground.corners), ground.most).flatten(2, 3).flatten(0, 1)
        weights = self.level_weights(x).unflatten(-1, (self.heads, -1)).permute(0, 3, 4, 1, 2).contiguous().softmax(2)
        return places, weights.flatten(0, 1)[:, None]

    def _joined(self, taken: Tensor, dtype: torch.dtype) -> Tensor:
        """What each head takes, [B * M, D, Q, N] -> [B, Q, N, C]."""
        return self.out(taken.unflatten(0, (-1, self.heads)).flatten(1, 2).permute(0, 2, 3, 1).contiguous().to(dtype))


class SamplesInTurn(OffsetSamples):
    """The same, one sample of all tokens after the other: where the tokens are a whole canvas, all at once are P canvases."""

    def forward(self, x: Tensor, points: Tensor, canvas: Tensor, ground: Ground) -> Tensor:
        places, weights = self._asked(x, points, ground)
        canvas, taken = canvas.to(places.dtype), None
        for where, weight in zip(places.unbind(1), weights.unbind(2), strict=True):
            sample = F.grid_sample(canvas, where, align_corners=False)
            taken = sample * weight if taken is None else taken.addcmul_(sample, weight)
            del sample  # before the next one is there
        return self._joined(taken, x.dtype)
