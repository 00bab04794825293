"""Multi-scale deformable attention in plain PyTorch.

Source: Deformable DETR (Zhu et al. 2021), equation 3; the published model runs this way too, on `grid_sample`. Deviations: none.
Shapes: B batch, S memory tokens, T query tokens, C width, M heads, D = C / M, L levels, P points.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humar_bench.skeleton.geometry import Shapes, split_levels


def deformable_attention(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Sample the value maps at every location and sum with the weights. The one place where the operator is computed.

    value [B, S, M, D], locations [B, T, M, L, P, 2] as (x, y) in [0, 1], weights [B, T, M, L, P] -> [B, T, C].
    Bilinear with zeros outside, a location of 0 being the outer edge of the first cell (align_corners=False).
    """
    batch, tokens, heads, levels, points = weights.shape
    grids = 2 * locations - 1
    sampled = []
    for level, maps in enumerate(split_levels(value, shapes)):  # [B, H, W, M, D]
        maps = maps.permute(0, 3, 4, 1, 2).flatten(0, 1)  # [B*M, D, H, W]
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # [B*M, T, P, 2]
        sampled.append(F.grid_sample(maps.to(grid.dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    samples = torch.stack(sampled, dim=-2).flatten(-2)  # [B*M, D, T, L*P]
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, tokens, levels * points)
    return (samples * weights).sum(-1).view(batch, -1, tokens).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Each query looks at P points per head and level, placed by itself around its reference point."""

    def __init__(self, *, channels: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)

    def reset_own_parameters(self) -> None:
        """Points start on rays in M directions, one step further out for each point; attention starts even."""
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.zeros_(layer.bias)
        if self.points % 4 == 0:
            angles = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
            rays = torch.stack((angles.cos(), angles.sin()), dim=-1)
            rays = rays / rays.abs().amax(-1, keepdim=True)
            steps = torch.arange(1, self.points + 1, dtype=torch.float32)
            bias = rays.view(-1, 1, 1, 2) * steps.view(1, 1, -1, 1)  # [M, 1, P, 2]
            with torch.no_grad():
                self.sampling_offsets.bias.copy_(bias.expand(-1, self.levels, -1, -1).flatten())

    def values(self, memory: Tensor) -> Tensor:
        """What is sampled: memory [B, S, C] -> [B, S, C]."""
        return self.value_proj(memory)

    def forward(self, query: Tensor, points: Tensor, memory: Tensor, padding: Tensor, shapes: Shapes, sizes: Tensor) -> Tensor:
        """query [B, T, C] at points [B, T, L, 2], memory [B, S, C], padding [B, S], sizes [L, 2] as (W, H) -> [B, T, C]."""
        value = self.values(memory).masked_fill(padding.unsqueeze(-1), 0).unflatten(-1, (self.heads, -1))
        offsets = self.sampling_offsets(query).unflatten(-1, (self.heads, self.levels, self.points, 2))
        weights = self.attention_weights(query).unflatten(-1, (self.heads, -1)).softmax(-1).unflatten(-1, (self.levels, self.points))
        locations = points[:, :, None, :, None] + offsets / sizes[:, None]
        return self.output_proj(deformable_attention(value, shapes, locations, weights).to(query.dtype))
