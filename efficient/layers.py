"""The replacement's own layers: separable convolution, linear attention, graph attention, cross-attention, MLP.

Sources: depthwise separable convolution, MobileNets (Howard et al. 2017), section 3.1; linear attention, Katharopoulos et al. 2020,
equation 5; a depthwise convolution on V against the rank loss of ReLU attention, FLatten (Han et al. 2023), section 3.3;
graph attention as a learned bias over the skeleton's pairs, after GroupPose (Liu et al. 2023); projections of low rank, LoRA's factors
(Hu et al. 2022, section 4.1) in place of the matrix instead of beside it.

Shapes: B batch, T tokens, C width, M heads, D = C / M, (H, W) a canvas with T = H * W, N tokens of an instance.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficient.windows import Windows, window_attention
from humar_bench.args import LIMBS

FLOOR = 1e-6  # the ReLU of linear attention stops here instead of at 0, so that no row is left without weight
RING = 0.17  # of a token: how far from the reference point samples of the memory begin
NO_WEIGHT = 1e-20  # what padding counts: nothing beside a valid token, yet no division by zero in an image that is padding throughout


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, C] -> [B, M, T, D]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, M, T, D] -> [B, T, C]."""
    return x.transpose(1, 2).flatten(-2)


class DepthwiseConv(nn.Conv2d):
    """A 3x3 convolution of each channel by itself over a canvas [B, H, W, C]. The caller zeroes padding first."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)

    def forward(self, canvas: Tensor) -> Tensor:
        return super().forward(canvas.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class DepthwiseSeparableConv(nn.Module):
    """A depthwise 3x3 convolution, then a pointwise one: [B, H, W, C] -> [B, H, W, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv(channels)
        self.pointwise = nn.Linear(channels, channels)

    def forward(self, canvas: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(canvas))


def projection(inputs: int, outputs: int, rank: int) -> nn.Module:
    """A linear layer, with a `rank` that is not 0 the product of two that are as narrow between them."""
    if not rank:
        return nn.Linear(inputs, outputs)
    return nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs))


class FeedForward(nn.Module):
    """Two linear layers with GELU between, `ratio` times wider inside."""

    def __init__(self, channels: int, *, ratio: int, dropout: float, rank: int = 0) -> None:
        super().__init__()
        self.linear1 = projection(channels, ratio * channels, rank)
        self.linear2 = projection(ratio * channels, channels, rank)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear2(self.dropout(F.gelu(self.linear1(x)))))


def linear_attention(qk: Tensor, v: Tensor, counts: Tensor | None = None) -> Tensor:
    """Attention with weights phi(q) . phi(k), phi a floored ReLU, normalised per query; O(T).

    qk [2, B, M, T, D], v [B, M, T, D] -> [B, M, T, D]. counts [B, T, 1]: what each token counts, 1 or NO_WEIGHT (v is scaled so); None:
    all count. The counts go with V as one more column: the mask then holds for every key in numerator and denominator alike, and one
    product gives both. Sums are kept in float32 at least.
    """
    exact = torch.promote_types(v.dtype, torch.float32)
    q, k = qk.clamp(min=FLOOR).to(exact)
    counted = F.pad(v, (0, 1), value=1.0) if counts is None else torch.cat((v, counts.unsqueeze(1).expand(-1, v.shape[1], -1, -1)), dim=-1)
    attended = q @ (k.transpose(-1, -2) @ counted.to(exact))  # [B, M, T, D + 1]
    return (attended[..., :-1] / attended[..., -1:]).to(v.dtype)


class EfficientLinearAttention(nn.Module):
    """Linear attention among the tokens of a sequence, with a depthwise convolution on V where the tokens lie on a canvas.

    Where there are windows, the same queries, keys and values also attend within each, and both results are summed: no weight more.
    """

    def __init__(self, channels: int, *, heads: int, value_conv: bool, rank: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = projection(channels, 3 * channels, rank)
        self.out = projection(channels, channels, rank)
        self.value_conv = DepthwiseConv(channels) if value_conv else None

    def forward(
        self, x: Tensor, valid: Tensor | None = None, size: tuple[int, int] | None = None, windows: Windows | None = None
    ) -> Tensor:
        """x [B, T, C]; valid [B, T, 1], 1 or NO_WEIGHT; size (H, W) of the canvas that the tokens are, and its windows -> [B, T, C]."""
        qkv = self.qkv(x)
        qk, v = qkv.split((2 * x.shape[-1], x.shape[-1]), dim=-1)
        if valid is not None:
            v = v * valid.to(v.dtype)
        heads = qk.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [2, B, M, T, D]
        attended = merge_heads(linear_attention(heads.contiguous(), split_heads(v, self.heads), valid))
        if self.value_conv is not None:
            attended = attended + self.value_conv(v.unflatten(1, size)).flatten(1, 2)
        if windows is not None:
            attended = attended + window_attention(qkv, windows, self.heads)
        return self.out(attended)


def skeleton_mask(tokens: int, hops: int) -> Tensor:
    """[1, 1, N, N]: 0 where one token sees the other, -inf where more than `hops` bones are between two keypoints."""
    near = torch.eye(tokens)
    for a, b in LIMBS:
        near[a + 1, b + 1] = near[b + 1, a + 1] = 1
    seen = torch.linalg.matrix_power(near, min(hops, tokens))
    seen[0], seen[:, 0] = 1, 1
    return torch.where(seen > 0, 0.0, -torch.inf)[None, None]


class EfficientGraphAttention(nn.Module):
    """Attention among the N tokens of an instance, with a learned bias for each head and pair of tokens.

    With `hops` that are not 0 a keypoint sees those at most so many bones away (the skeleton's edges and their powers) and the instance
    token, which sees all. 18 tokens are too few for another kernel to pay, so the pairs that are left out are masked.
    """

    def __init__(self, channels: int, *, heads: int, tokens: int, bias: bool, rank: int = 0, hops: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = projection(channels, 3 * channels, rank)
        self.out = projection(channels, channels, rank)
        self.graph_bias = nn.Parameter(torch.empty(heads, tokens, tokens)) if bias else None
        self.register_buffer("unseen", skeleton_mask(tokens, hops) if hops else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, C] -> [B, N, C]."""
        q, k, v = (split_heads(each, self.heads) for each in self.qkv(x).chunk(3, dim=-1))
        bias = None
        if self.graph_bias is not None:  # torch's fused CPU kernel wants four dimensions and no gradient
            bias = (self.graph_bias if torch.is_grad_enabled() else self.graph_bias.detach()).unsqueeze(0)
        if self.unseen is not None:
            bias = self.unseen if bias is None else bias + self.unseen
        return self.out(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=bias)))


class CrossAttention(nn.Module):
    """Standard multi-head attention to the memory, whose keys and values are computed once per forward."""

    def __init__(self, channels: int, *, heads: int, rank: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.q = projection(channels, channels, rank)
        self.kv = projection(channels, 2 * channels, rank)
        self.out = projection(channels, channels, rank)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """memory [B, S, C] -> keys and values [B, M, S, D]."""
        k, v = self.kv(memory).chunk(2, dim=-1)
        return split_heads(k, self.heads), split_heads(v, self.heads)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """x [B, T, C]; keys, values [B, M, S, D]; bias [B, 1, 1, S], very negative at padding -> [B, T, C]."""
        return self.out(merge_heads(F.scaled_dot_product_attention(split_heads(self.q(x), self.heads), keys, values, attn_mask=bias)))
