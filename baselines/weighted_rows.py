"""Deformable attention as a weighted sum of value rows: what the CPU does fastest.

Every output of a head is a sum of 4 L P rows of that head's values, the corners of each sample, so that one `embedding_bag` computes it and
no sample is ever stored. Same function as `baselines.deformable_attention` (Zhu et al. 2021, equation 3), differently rounded.

Shapes: B batch, S memory tokens, T query tokens, M heads, D = C / M, L levels, P points.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from humar_bench.skeleton.geometry import Shapes


def weighted_rows(value: Tensor, offsets: Tensor, logits: Tensor, points: Tensor, sizes: Tensor, shapes: Shapes) -> Tensor:
    """value [B, S, M, D], zero at padding; offsets [B, T, M, L, P, 2] in cells as (x, y); logits [B, T, M, L*P], softmax over the last;
    points [B, T, L, 2] in [0, 1]; sizes [L, 2] as (W, H) -> [B, T, M * D] in the value's number type, summed in the points'.
    """
    batch, tokens, heads, levels, samples, _ = offsets.shape
    exact = points.dtype
    spread = sizes.t().repeat_interleave(samples, 1)  # [2, L*P]
    centres = torch.addcmul(points.new_full((), -0.5), points, sizes).transpose(-1, -2).repeat_interleave(samples, -1)  # [B, T, 2, L*P]
    places = offsets.flatten(3, 4).transpose(-1, -2) + centres.unsqueeze(2)  # [B, T, M, 2, L*P]
    low = places.floor()
    share = places.sub_(low)
    share = torch.stack((1 - share, share), dim=-2)  # [B, T, M, (x, y), (low, high), L*P]
    corners = torch.stack((low, low + 1), dim=-2)
    inside = torch.minimum(corners.clamp(min=0), spread.unsqueeze(-2) - 1)
    share *= corners == inside  # zeros outside
    across, down = share.unbind(3)
    down = down * logits.to(exact).softmax(-1).unsqueeze(-2)
    weights = down.unsqueeze(-2) * across.unsqueeze(-3)  # [B, T, M, (low, high) y, (low, high) x, L*P]

    x, y = inside.to(torch.int32).unbind(3)
    rows = (y * spread[0].to(torch.int32)).add_(_first_rows(shapes, samples, value)).mul_(heads)
    rows.add_(torch.arange(heads, dtype=torch.int32, device=value.device).view(-1, 1, 1))
    rows = rows.unsqueeze(-2) + x.mul_(heads).unsqueeze(-3)
    table = value.to(exact).reshape(-1, value.shape[-1])  # [B*S*M, D]
    bags = batch * tokens * heads
    summed = F.embedding_bag(rows.view(bags, -1), table, mode="sum", per_sample_weights=weights.view(bags, -1))
    return summed.view(batch, tokens, -1).to(value.dtype)


def _first_rows(shapes: Shapes, samples: int, value: Tensor) -> Tensor:
    """The first memory token of each image and level, for every sample: [B, 1, 1, 1, L*P], made on the device."""
    batch, memory = value.shape[:2]
    starts, first = [], 0
    for height, width in shapes:
        starts.append(torch.full((samples,), first, dtype=torch.int32, device=value.device))
        first += height * width
    images = torch.arange(batch, dtype=torch.int32, device=value.device) * memory
    return (images.unsqueeze(-1) + torch.cat(starts)).view(batch, 1, 1, 1, -1)
