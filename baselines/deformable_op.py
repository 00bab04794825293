"""Deformable attention as one operator of torch, `humar_bench::deformable_attention`: opaque to compile and export, with a fake result.

On CUDA it is the Triton kernel, elsewhere a weighted sum of rows. Forward only: it has no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from baselines.weighted_rows import weighted_rows
from humar_bench.skeleton.kernels import has_kernel


@torch.library.custom_op(
    "humar_bench::deformable_attention",
    mutates_args=(),
    schema="(Tensor value, Tensor padding, Tensor offsets, Tensor logits, Tensor points, Tensor sizes, int[] shapes) -> Tensor",
)
def deformable_attention_op(
    value: Tensor, padding: Tensor, offsets: Tensor, logits: Tensor, points: Tensor, sizes: Tensor, shapes: Sequence[int]
) -> Tensor:
    """value [B, S, M, D]; padding [B, S], True = padding, whose values count as 0; offsets [B, T, M, L, P, 2] in cells as (x, y);
    logits [B, T, M, L*P], softmax over the last; points [B, T, L, 2] in [0, 1]; sizes [L, 2] as (W, H) and the same on the host as
    shapes H_0, W_0, H_1, ... -> [B, T, M * D] in the value's number type. Bilinear, zeros outside, align_corners=False.
    """
    if has_kernel(value):
        from baselines.deformable_kernel import launch

        return launch(value, padding, offsets, logits, points, sizes)
    value = value.masked_fill(padding[:, :, None, None], 0)
    return weighted_rows(value, offsets, logits, points, sizes, list(zip(shapes[::2], shapes[1::2], strict=True)))


@deformable_attention_op.register_fake
def _fake(value: Tensor, padding: Tensor, offsets: Tensor, *_: object) -> Tensor:
    batch, tokens, heads = offsets.shape[:3]
    return value.new_empty(batch, tokens, heads * value.shape[-1])
