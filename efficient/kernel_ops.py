"""The replacement's kernels as operators of torch: opaque to compile and export, with fake results. Forward only.

On CUDA they are Triton kernels, elsewhere the layers' own functions.
Shapes: B batch, T tokens, C width, M heads, (H, W) a canvas.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from efficient.layers import linear_attention, merge_heads, split_heads
from humar_bench.skeleton.kernels import has_kernel

DEEPEST = 128  # a head's K^T V, D x D in float32, is held in registers


@torch.library.custom_op(
    "humar_bench::linear_attention", mutates_args=(), schema="(Tensor qkv, Tensor? counts, int heads) -> Tensor"
)
def linear_attention_op(qkv: Tensor, counts: Tensor | None, heads: int) -> Tensor:
    """`efficient.layers.linear_attention` of qkv [B, T, 3 C] and counts [B, T, 1], by which the values are scaled too -> [B, T, C]."""
    width = qkv.shape[-1] // 3
    if has_kernel(qkv) and width // heads <= DEEPEST:
        from efficient.kernels import launch_linear_attention

        return launch_linear_attention(qkv, counts, heads)
    qk, v = qkv.split((2 * width, width), dim=-1)
    v = v if counts is None else v * counts.to(v.dtype)
    qk = qk.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
    return merge_heads(linear_attention(qk, split_heads(v, heads), counts)).contiguous()


@linear_attention_op.register_fake
def _linear_attention(qkv: Tensor, counts: Tensor | None, heads: int) -> Tensor:
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[-1] // 3)


@torch.library.custom_op(
    "humar_bench::depthwise_conv", mutates_args=(),
    schema="(Tensor canvas, Tensor weight, Tensor bias, Tensor? valid, Tensor? residual) -> Tensor",
)  # fmt: skip
def depthwise_conv_op(canvas: Tensor, weight: Tensor, bias: Tensor, valid: Tensor | None, residual: Tensor | None) -> Tensor:
    """A 3x3 convolution of each channel of canvas [B, H, W, C] times valid [B, H, W, 1], plus residual [B, H, W, C] -> [B, H, W, C]."""
    if has_kernel(canvas):
        from efficient.kernels import launch_depthwise

        return launch_depthwise(canvas, weight, bias, valid, residual)
    canvas = canvas if valid is None else canvas * valid.to(canvas.dtype)
    made = F.conv2d(canvas.permute(0, 3, 1, 2), weight, bias, padding=1, groups=len(weight)).permute(0, 2, 3, 1)
    return made.contiguous() if residual is None else residual + made


@depthwise_conv_op.register_fake
def _depthwise_conv(canvas: Tensor, *_: object) -> Tensor:
    return canvas.new_empty(canvas.shape)
