"""The inputs of one forward, made from a workload and a seed.

Shapes: B batch, L levels, (H_l, W_l) size of level l, C width, Q queries.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from humar_bench.args import ModelArgs, Workload


class Inputs(NamedTuple):
    """What `model(*inputs)` is called with."""

    srcs: list[Tensor]  # L of [B, C, H_l, W_l]
    masks: list[Tensor]  # L of [B, H_l, W_l], bool, True = padding
    pos_embeds: list[Tensor]  # L of [B, C, H_l, W_l]
    query_embed: Tensor  # [B, Q, 1, C]


def make_inputs(
    args: ModelArgs,
    workload: Workload,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Inputs:
    """Standard normal maps, embeddings and queries; the same numbers on every device for one seed.

    Drawn in float32 on the CPU, then converted, so that a comparison across devices and number types compares the same input.
    On the meta device, and under a fake tensor mode, nothing is allocated.
    """
    generator = None if torch.device(device).type == "meta" else torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        if generator is None:
            return torch.empty(shape, device=device, dtype=dtype)
        return torch.randn(shape, generator=generator).to(device=device, dtype=dtype)

    def padding(height: int, width: int) -> Tensor:
        mask = torch.zeros(workload.batch, height, width, dtype=torch.bool, device=device)
        if workload.padded:
            mask[1:, math.ceil(0.75 * height) :, :] = True
            mask[1:, :, math.ceil(0.6 * width) :] = True
        return mask

    channels, batch = args.hidden_dim, workload.batch
    return Inputs(
        srcs=[normal(batch, channels, height, width) for height, width in workload.feature_sizes],
        masks=[padding(height, width) for height, width in workload.feature_sizes],
        pos_embeds=[normal(batch, channels, height, width) for height, width in workload.feature_sizes],
        query_embed=normal(batch, workload.num_queries, 1, channels),
    )
