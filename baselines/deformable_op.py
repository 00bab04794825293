"""Deformable attention as one operator of torch, `humar_bench::deformable_attention`: opaque to compile and export, with a fake result.

On CUDA it is the Triton kernel, elsewhere a weighted sum of rows. Forward only: it has no gradient.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from baselines.weighted_rows import weighted_rows

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = HAS_TRITON and os.environ.get("TRITON_INTERPRET") == "1"  # the kernel then runs on CPU tensors
KERNEL_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def has_kernel(value: Tensor) -> bool:
    """Whether the operator is one kernel for this tensor. On the meta device always, so that every machine counts the same."""
    if value.dtype not in KERNEL_TYPES:
        return False
    return value.is_meta or (HAS_TRITON and (value.device.type == "cuda" or (INTERPRETED and value.device.type == "cpu")))


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
