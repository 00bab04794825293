"""The replacement: local convolutions and linear attention encode, graph attention and a refinement loop decode.

Source: the published Conv+Attention description of HuMAR; layers and their papers in `efficient.layers`.
Changed on purpose, each a switch of `ModelArgs`: weights are tied (5 M parameters do not hold 10 untied blocks of width 256), the encoder
blocks work on cells of 2x2 tokens beside a full-resolution path, only the instance token attends to the whole memory, and each keypoint
takes a bilinear sample of every level at its reference point. Across-instance and cross-attention act side by side on one normalised input.

Shapes: B batch, L levels, S memory tokens, C width, Q queries, K keypoints, N = K + 1 tokens of an instance (0 is the instance token),
(H, W) the canvas in tokens, (h, w) in cells.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficient.canvas import Canvas
from efficient.layers import (
    NO_WEIGHT,
    CrossAttention,
    DepthwiseConv,
    DepthwiseSeparableConv,
    EfficientGraphAttention,
    EfficientLinearAttention,
    FeedForward,
)
from humar_bench.args import EFFICIENT_PREFIX, ModelArgs
from humar_bench.skeleton.layers import LOGIT_EPS
from humar_bench.skeleton.pose_transformer import Memory, PoseDecoder, PoseTransformer


class LocalConv(nn.Module):
    """Two separable convolutions with GELU between, as a residual: what a token sees of its neighbours."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = DepthwiseSeparableConv(channels)
        self.second = DepthwiseSeparableConv(channels)

    def forward(self, canvas: Tensor, valid: Tensor) -> Tensor:
        """canvas [B, H, W, C], zero where `valid` [B, H, W, 1] is 0 -> canvas."""
        return canvas + self.second(F.gelu(self.first(canvas)) * valid)


class EncoderBlock(nn.Module):
    """Pre-norm linear attention, then a pre-norm MLP."""

    def __init__(self, channels: int, *, heads: int, ratio: int, dropout: float, value_conv: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = EfficientLinearAttention(channels, heads=heads, value_conv=value_conv)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, ratio=ratio, dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor, size: tuple[int, int]) -> Tensor:
        """x [B, T, C], valid [B, T, 1], size (h, w) with T = h * w -> [B, T, C]."""
        x = x + self.dropout(self.attention(self.norm1(x), valid=valid, size=size))
        return x + self.mlp(self.norm2(x))


class EfficientEncoder(nn.Module):
    """Local convolutions on every token, attention blocks on cells of tokens, both summed."""

    def __init__(self, sets: list[EncoderBlock], *, channels: int, blocks: int, stride: int, local_conv: bool) -> None:
        super().__init__()
        self.blocks, self.stride = blocks, stride
        self.local = LocalConv(channels) if local_conv else None
        self.sets = nn.ModuleList(sets)
        self.smooth = DepthwiseConv(channels) if stride > 1 else None  # takes the steps out of the spread cells
        self.norm = nn.LayerNorm(channels)

    def forward(
        self, srcs: list[Tensor], pos_embeds: list[Tensor], level_embed: Tensor | None, padding: Tensor, valid_ratios: Tensor
    ) -> Tensor:
        """L maps and embeddings [B, C, H_l, W_l], level_embed [L, C], padding [B, S], valid_ratios [B, L, 2] -> memory [B, S, C]."""
        canvas = Canvas([(src.shape[2], src.shape[3]) for src in srcs], self.stride)
        valid = canvas.place_tokens((~padding.unsqueeze(-1)).to(srcs[0].dtype))  # 0 at padding and between the levels
        levels = [(src + pos).permute(0, 2, 3, 1) for src, pos in zip(srcs, pos_embeds, strict=True)]
        if level_embed is not None:
            levels = [level + row for level, row in zip(levels, level_embed, strict=True)]
        x = canvas.place(levels).masked_fill(valid == 0, 0)
        del levels
        if self.local is not None:
            x = self.local(x, valid)
        cells, cell_valid = canvas.pool(x * valid, valid)
        size = cells.shape[1:3]
        tokens, counts = cells.flatten(1, 2), cell_valid.flatten(1, 2).to(valid_ratios.dtype).clamp(min=NO_WEIGHT)
        for i in range(self.blocks):
            tokens = self.sets[i % len(self.sets)](tokens, counts, size)
        cells = tokens.unflatten(1, size)
        x = cells if self.smooth is None else x + self.smooth(canvas.spread(cells) * valid)
        return self.norm(canvas.gather(x))


class Look(NamedTuple):
    """What every decoder iteration reads of the memory."""

    keys_values: list[tuple[Tensor, Tensor]]  # of each weight set
    bias: Tensor  # [B, 1, 1, h * w]
    canvas: Tensor  # [B, C, H, W], zero at padding and between the levels; [B * M, D, H, W] where M heads sample apart
    corners: Tensor  # [L, 2], where a reference point of 0 lies on the canvas, from -1 to 1
    extents: Tensor  # [B, L, 2], how far from there a reference point of 1 lies


class EfficientDecoderLayer(nn.Module):
    """Within the instance, across instances and into the image, feed-forward; the norms are the caller's, one set per iteration."""

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        ratio: int,
        levels: int,
        tokens: int,
        dropout: float,
        graph_bias: bool,
        cross_all: bool,
        samples: bool,
        sample_heads: int,
    ) -> None:
        super().__init__()
        self.cross_all = cross_all
        self.within = EfficientGraphAttention(channels, heads=heads, tokens=tokens, bias=graph_bias)
        self.across = EfficientLinearAttention(channels, heads=heads, value_conv=False)
        self.cross = CrossAttention(channels, heads=heads)
        apart = OffsetSamples(channels, levels=levels, heads=sample_heads) if sample_heads else PointSamples(channels, levels=levels)
        self.samples = apart if samples else None
        self.mlp = FeedForward(channels, ratio=ratio, dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, pos: Tensor, points: Tensor, look: Look, keys_values: tuple[Tensor, Tensor], norms: nn.ModuleList
    ) -> Tensor:
        """x, pos [B, Q, N, C], points [B, Q, N, 2] -> [B, Q, N, C]."""
        inner, inner_pos = x.flatten(0, 1), pos.flatten(0, 1)
        x = norms[0](inner + self.dropout(self.within(inner, inner_pos))).view_as(x)
        x = norms[1](x + self.dropout(self._look_around(x, pos, points, look, keys_values)))
        return norms[2](x + self.mlp(x))

    def _look_around(self, x: Tensor, pos: Tensor, points: Tensor, look: Look, keys_values: tuple[Tensor, Tensor]) -> Tensor:
        """What the instance token takes from the other instances and the memory, and the keypoints from where they are."""
        apart = isinstance(self.samples, OffsetSamples)
        placed = x + pos if self.cross_all or apart else (x[:, :, :1] + pos[:, :, :1])
        instance = placed[:, :, 0]
        update = self.across(instance)
        if not self.cross_all:
            update = update + self.cross(instance, *keys_values, look.bias)
        update = update.unsqueeze(2)
        if apart:
            sampled = self.samples(placed, points, look)
            update = torch.cat((update + sampled[:, :, :1], sampled[:, :, 1:]), dim=2)
        elif self.samples is None:
            update = F.pad(update, (0, 0, 0, x.shape[2] - 1))
        else:
            update = torch.cat((update, self.samples(x, points, look)), dim=2)
        if self.cross_all:
            update = update + self.cross(placed.flatten(1, 2), *keys_values, look.bias).view_as(x)
        return update


class PointSamples(nn.Module):
    """One bilinear sample of every level at a keypoint's reference point, weighed by the keypoint's token."""

    def __init__(self, channels: int, *, levels: int) -> None:
        super().__init__()
        self.level_weights = nn.Linear(channels, levels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, points: Tensor, look: Look) -> Tensor:
        """x [B, Q, N, C] at points [B, Q, N, 2] -> [B, Q, K, C]."""
        places = torch.addcmul(look.corners, points[:, :, 1:].unsqueeze(3), look.extents[:, None, None])  # [B, Q, K, L, 2]
        samples = F.grid_sample(look.canvas.to(places.dtype), places.flatten(2, 3), align_corners=False)  # [B, C, Q, K*L]
        weights = self.level_weights(x).softmax(-1)[:, None, :, 1:]  # [B, 1, Q, K, L]
        samples = samples.unflatten(-1, (-1, weights.shape[-1]))
        samples = samples * weights if torch.is_grad_enabled() else samples.mul_(weights)  # large at many queries
        return self.out(samples.sum(-1).permute(0, 2, 3, 1).contiguous().to(x.dtype))


class OffsetSamples(nn.Module):
    """One bilinear sample of every level for each head, at a learned offset from the token's reference point, weighed by the token.

    Deformable attention (Zhu et al. 2021, equation 2) with one point a head and level, on the memory as it is; of the instance token too.
    Each head reads its share of the channels, so all of them cost what `PointSamples` does. Offsets are in tokens of the level and begin as
    a ring around the point; a sample never leaves the valid part of its level.
    """

    def __init__(self, channels: int, *, levels: int, heads: int) -> None:
        super().__init__()
        self.levels, self.heads = levels, heads
        self.offsets = nn.Linear(channels, heads * levels * 2)
        self.level_weights = nn.Linear(channels, heads * levels)
        self.out = nn.Linear(channels, channels)

    def reset_own_parameters(self) -> None:
        """Offsets that do not depend on the token at first: head m looks one token away in direction m of M."""
        angles = torch.arange(self.heads, dtype=torch.float64) * (2 * math.pi / self.heads)
        ring = torch.stack((angles.cos(), angles.sin()), dim=-1)[:, None].expand(-1, self.levels, -1)
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            self.offsets.bias.copy_(ring.flatten())

    def forward(self, x: Tensor, points: Tensor, look: Look) -> Tensor:
        """x [B, Q, N, C] at points [B, Q, N, 2] -> [B, Q, N, C]."""
        shape = (self.heads, self.levels)
        token = torch.stack([points.new_full((), 2 / side) for side in look.canvas.shape[:1:-1]])  # a token's width and height
        first, last = look.corners, (look.corners + look.extents)[:, None, None, None]  # [L, 2], [B, 1, 1, 1, L, 2]
        places = torch.addcmul(first, points[:, :, :, None, None], look.extents[:, None, None, None])  # [B, Q, N, 1, L, 2]
        places = places + self.offsets(x).unflatten(-1, (*shape, 2)).to(places.dtype) * token
        places = torch.minimum(torch.maximum(places, first), last).permute(0, 3, 1, 2, 4, 5).flatten(0, 1).flatten(2, 3)  # [B*M, Q, N*L, 2]
        samples = F.grid_sample(look.canvas.to(places.dtype), places, align_corners=False)  # [B*M, D, Q, N*L]
        weights = self.level_weights(x).unflatten(-1, shape).softmax(-1).permute(0, 3, 1, 2, 4).flatten(0, 1)[:, None]  # [B*M, 1, Q, N, L]
        taken = (samples.unflatten(-1, (-1, self.levels)) * weights).sum(-1)  # [B*M, D, Q, N]
        return self.out(taken.unflatten(0, (-1, self.heads)).flatten(1, 2).permute(0, 2, 3, 1).contiguous().to(x.dtype))


class EfficientDecoder(PoseDecoder):
    """Tied layers inside the shared refinement loop; every iteration has norms and an embedding of its own."""

    def __init__(
        self, sets: list[EfficientDecoderLayer], *, channels: int, iterations: int, classes: int, memory_stride: int, sample_heads: int
    ) -> None:
        super().__init__(channels=channels, iterations=iterations, classes=classes)
        self.memory_stride, self.sample_heads = memory_stride, sample_heads
        self.sets = nn.ModuleList(sets)
        self.norms = nn.ModuleList(nn.ModuleList(nn.LayerNorm(channels) for _ in range(3)) for _ in range(iterations))
        self.iteration_embed = nn.Embedding(iterations, channels)

    def prepare(self, memory: Memory) -> Look:
        layout = Canvas(memory.shapes, self.memory_stride)
        padding = memory.padding.unsqueeze(-1)
        canvas = layout.place_tokens(memory.tokens.masked_fill(padding, 0))
        cells, valid = layout.pool(canvas, layout.place_tokens((~padding).to(canvas.dtype)))
        cells, valid = cells.flatten(1, 2), valid.flatten(1)
        bias = (valid - 1) * (torch.finfo(canvas.dtype).max / 2)
        seen = canvas.permute(0, 3, 1, 2)
        if self.sample_heads:
            seen = seen.unflatten(1, (self.sample_heads, -1)).flatten(0, 1)
        corners, sizes = layout.slots_in_unit_square(like=memory.valid_ratios)
        return Look(
            keys_values=[each.cross.keys_values(cells) for each in self.sets],
            bias=bias[:, None, None],
            canvas=seen,
            corners=corners,
            extents=memory.valid_ratios * sizes,
        )

    def logits(self, points: Tensor) -> Tensor:
        return torch.logit(points, eps=LOGIT_EPS)

    def iterate(self, i: int, x: Tensor, query_pos: Tensor, points: Tensor, context: Look) -> Tensor:
        which = i % len(self.sets)
        pos = query_pos + self.iteration_embed.weight[i]
        return self.sets[which](x, pos, points, context, context.keys_values[which], self.norms[i])


def build_efficient_conv_attention_transformer(args: Any) -> PoseTransformer:
    """The replacement from the shared arguments (a ModelArgs or any object with upstream's names). Raises UsageError.

    What the published description fixes for the replacement (heads, encoder blocks, MLP ratio) comes from the `efficient_` arguments
    and stands in `built` under the shared name; shared arguments that are not in `built` are not used.
    """
    args = ModelArgs.of(args)
    channels, heads, ratio = args.hidden_dim, args.efficient_nheads, args.efficient_mlp_ratio
    block = {"heads": heads, "ratio": ratio, "dropout": args.dropout}
    encoder = EfficientEncoder(
        [EncoderBlock(channels, **block, value_conv=args.efficient_value_conv) for _ in range(args.efficient_encoder_sets)],
        channels=channels,
        blocks=args.efficient_enc_layers,
        stride=args.efficient_encoder_stride,
        local_conv=args.efficient_local_conv,
    )
    sets = [
        EfficientDecoderLayer(
            channels,
            **block,
            levels=args.num_feature_levels,
            tokens=args.num_body_points + 1,
            graph_bias=args.efficient_graph_bias,
            cross_all=args.efficient_cross_tokens == "all",
            samples=args.efficient_point_samples,
            sample_heads=args.efficient_sample_heads,
        )
        for _ in range(args.efficient_decoder_sets)
    ]
    used = (
        *("hidden_dim", "dec_layers", "num_feature_levels", "num_queries", "num_body_points", "num_classes", "dropout"),
        *("learnable_tgt_init", "two_stage_type"),
        *(option.name for option in dataclasses.fields(args) if option.name.startswith(EFFICIENT_PREFIX)),
    )
    model = PoseTransformer(
        encoder=encoder,
        decoder=EfficientDecoder(
            sets, channels=channels, iterations=args.dec_layers, classes=args.num_classes, memory_stride=args.efficient_memory_stride,
            sample_heads=args.efficient_sample_heads,
        ),
        channels=channels,
        levels=args.num_feature_levels,
        keypoints=args.num_body_points,
        classes=args.num_classes,
        pose_after_selection=True,
        query_buffer=args.num_queries if args.learnable_tgt_init else None,
        built={
            **{name: getattr(args, name) for name in used},
            "nheads": heads,
            "enc_layers": args.efficient_enc_layers,
            "dim_feedforward": ratio * channels,
            "transformer_activation": "gelu",
        },
    )
    model.reset_parameters()
    return model
