"""The replacement with Triton kernels for its linear attention and its depthwise convolutions, behind the same modules.

Same state dict, same outputs to rounding. An architecture of its own, because no measurement on a GPU says yet whether the kernels pay;
where there is none (no CUDA, no Triton, gradients wanted, a head wider than 128) it is the plain replacement.

Shapes: B batch, T tokens, C width, (H, W) a canvas with T = H * W.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from efficient.kernel_ops import DEEPEST, depthwise_conv_op, linear_attention_op
from efficient.layers import DepthwiseConv, EfficientLinearAttention
from efficient.transformer import build_efficient_conv_attention_transformer
from efficient.windows import Windows, window_attention
from humar_bench.skeleton.kernels import may_use_kernel
from humar_bench.skeleton.pose_transformer import PoseTransformer


class FusedDepthwiseConv(DepthwiseConv):
    """A depthwise convolution as one kernel, which also masks its input and adds a residual."""

    def forward(self, canvas: Tensor, valid: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """canvas [B, H, W, C], valid [B, H, W, 1], residual [B, H, W, C] -> [B, H, W, C]."""
        if may_use_kernel(canvas):
            return depthwise_conv_op(canvas, self.weight, self.bias, valid, residual)
        made = super().forward(canvas if valid is None else canvas * valid.to(canvas.dtype))
        return made if residual is None else residual + made


class FusedLinearAttention(EfficientLinearAttention):
    """Linear attention as two kernels and a sum between them; the convolution on V adds itself to the result."""

    def forward(
        self, x: Tensor, valid: Tensor | None = None, size: tuple[int, int] | None = None, windows: Windows | None = None
    ) -> Tensor:
        """x [B, T, C]; valid [B, T, 1], 1 or NO_WEIGHT; size (H, W) of the canvas that the tokens are, and its windows -> [B, T, C]."""
        if not may_use_kernel(x) or x.shape[-1] // self.heads > DEEPEST:
            return super().forward(x, valid, size, windows)
        qkv = self.qkv(x)
        attended = linear_attention_op(qkv, valid, self.heads)
        if self.value_conv is not None:
            values, counts = qkv[..., 2 * x.shape[-1] :].unflatten(1, size), None if valid is None else valid.unflatten(1, size)
            attended = self.value_conv(values, counts, attended.unflatten(1, size)).flatten(1, 2)
        if windows is not None:
            attended = attended + window_attention(qkv, windows, self.heads)
        return self.out(attended)


FUSED = {DepthwiseConv: FusedDepthwiseConv, EfficientLinearAttention: FusedLinearAttention}


def build_fused_efficient_transformer(args: Any) -> PoseTransformer:
    """The replacement with its kernels, from the same arguments as the plain one. Raises UsageError."""
    model = build_efficient_conv_attention_transformer(args)
    for module in model.modules():
        module.__class__ = FUSED.get(type(module), type(module))  # the same parameters under the same names, another forward
    return model
