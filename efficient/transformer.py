"""The replacement: local convolutions and linear attention encode, graph attention and a refinement loop decode.

Source: the published Conv+Attention description of HuMAR; layers and their papers in `efficient.layers`.
Changed on purpose, each a switch of `ModelArgs`: weights are tied (5 M parameters do not hold 10 untied blocks of width 256), the encoder
blocks work on cells of 2x2 tokens beside a full-resolution path, whose tokens sample every level around themselves before, every token of
the decoder samples the memory around its reference point instead of attending to all of it, the first half of the iterations moves the
instance token alone, and a second MLP follows the look into the image.

Shapes: B batch, L levels, S memory tokens, C width, Q queries, K keypoints, N = K + 1 tokens of an instance (0 is the instance token),
(H, W) the canvas in tokens, (h, w) in cells.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficient.canvas import Canvas
from efficient.depth import may_ask, still
from efficient.layers import (
    NO_WEIGHT,
    CrossAttention,
    DepthwiseConv,
    DepthwiseSeparableConv,
    EfficientGraphAttention,
    EfficientLinearAttention,
    FeedForward,
)
from efficient.original_decoder import original_decoder, original_hidden
from efficient.samples import Ground, OffsetSamples, SamplesInTurn
from efficient.windows import Windows, windows_of
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

    def __init__(self, channels: int, *, heads: int, ratio: int, rank: int, dropout: float, value_conv: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = EfficientLinearAttention(channels, heads=heads, value_conv=value_conv, rank=rank)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, ratio=ratio, dropout=dropout, rank=rank)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor, size: tuple[int, int], windows: Windows | None = None) -> Tensor:
        """x [B, T, C], valid [B, T, 1], size (h, w) with T = h * w -> [B, T, C]."""
        x = x + self.dropout(self.attention(self.norm1(x), valid=valid, size=size, windows=windows))
        return x + self.mlp(self.norm2(x))


class EfficientEncoder(nn.Module):
    """Local convolutions and samples on every token, attention blocks on cells of tokens, both summed.

    Each token samples all levels around itself: convolutions stay within a level, and linear attention hardly tells where something is, so
    nothing else says what the other levels hold at the same place.
    """

    def __init__(
        self, sets: list[EncoderBlock], *, channels: int, blocks: int, stride: int, local_conv: bool, window: int,
        samples: OffsetSamples | None,
    ) -> None:
        super().__init__()
        self.blocks, self.stride, self.window = blocks, stride, window
        self.local = LocalConv(channels) if local_conv else None
        self.samples = samples
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
        if self.samples is not None:
            x = x + self._around(x, valid, canvas, valid_ratios)
        cells, cell_valid = canvas.pool(x * valid, valid)
        size = cells.shape[1:3]
        tokens, counts = cells.flatten(1, 2), cell_valid.flatten(1, 2).to(valid_ratios.dtype).clamp(min=NO_WEIGHT)
        windows = windows_of(canvas, cell_valid, self.window) if self.window else None
        for i in range(self.blocks):
            tokens = self.sets[i % len(self.sets)](tokens, counts, size, windows)
        cells = tokens.unflatten(1, size)
        x = cells if self.smooth is None else x + self.smooth(canvas.spread(cells) * valid)
        return self.norm(canvas.gather(x))

    def _around(self, x: Tensor, valid: Tensor, canvas: Canvas, valid_ratios: Tensor) -> Tensor:
        """What tokens x [B, H, W, C], valid [B, H, W, 1], take from those of every level around them -> [B, H, W, C]."""
        ground = Ground.on(canvas, valid_ratios)
        return self.samples(x, ground.centres(canvas), self.samples.sampled(self.samples.value(x) * valid), ground)


class Look(NamedTuple):
    """What every decoder iteration reads of the memory, by one weight set."""

    keys_values: tuple[Tensor, Tensor] | None  # [B, M, h * w, D] each, of cells
    bias: Tensor | None  # [B, 1, 1, h * w]
    canvas: Tensor | None  # values [B * M, D, H, W] that M heads sample, zero at padding and between the levels
    ground: Ground


class EfficientDecoderLayer(nn.Module):
    """Into the image and across instances, then within the instance, an MLP after each; the norms are the caller's, one set per iteration.

    Positions are added to the tokens themselves before each half and stay there, as in the original (of the instance token too).
    Where all tokens attend across instances they do so first, by softmax and with a norm of their own, as in the original; the instance
    token alone does so by linear attention beside its look.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        ratio: int,
        rank: int,
        tokens: int,
        dropout: float,
        graph_bias: bool,
        hops: int,
        cross_tokens: str,
        samples: OffsetSamples | None,
        look_mlp: bool,
        across_tokens: str,
    ) -> None:
        super().__init__()
        self.cross_all, self.across_all = cross_tokens == "all", across_tokens == "all"
        self.across: nn.Module
        if self.across_all:
            self.across = EfficientGraphAttention(channels, heads=heads, tokens=tokens, bias=False, rank=rank)
        else:
            self.across = EfficientLinearAttention(channels, heads=heads, value_conv=False, rank=rank)
        self.cross = CrossAttention(channels, heads=heads, rank=rank) if cross_tokens != "none" else None
        self.samples = samples
        self.look_mlp = FeedForward(channels, ratio=ratio, dropout=dropout, rank=rank) if look_mlp else None
        self.within = EfficientGraphAttention(channels, heads=heads, tokens=tokens, bias=graph_bias, rank=rank, hops=hops)
        self.mlp = FeedForward(channels, ratio=ratio, dropout=dropout, rank=rank)
        self.dropout = nn.Dropout(dropout)

    def norms(self, channels: int, *, whole: bool) -> nn.ModuleList:
        """One iteration's norms, in the order of their use; a whole iteration has both halves."""
        look = 1 + self.across_all + (self.look_mlp is not None)
        return nn.ModuleList(nn.LayerNorm(channels) for _ in range((2 if whole else 0) + look))

    def forward(self, x: Tensor, pos: Tensor, points: Tensor, look: Look, norms: nn.ModuleList) -> Tensor:
        """x, pos [B, Q, N, C], points [B, Q, N, 2] -> [B, Q, N, C]."""
        shape, x = x.shape, self.look_around(x, pos, points, look, norms)
        x = (x + pos).flatten(0, 1)  # one name, so that nothing lives longer than it is read: large at many queries
        x = norms[-2](x + self.dropout(self.within(x)))
        return norms[-1](x + self.mlp(x)).view(shape)

    def look_around(self, x: Tensor, pos: Tensor, points: Tensor, look: Look, norms: nn.ModuleList) -> Tensor:
        """The first half, of all tokens or the instance token alone."""
        if self.across_all:
            x = norms[0](x + self.dropout(self._heard(x)))
        x = x + pos
        x = norms[self.across_all](x + self.dropout(self._seen(x, points, look)))
        return x if self.look_mlp is None else norms[self.across_all + 1](x + self.look_mlp(x))

    def _heard(self, x: Tensor) -> Tensor:
        """What tokens x [B, Q, N, C] take from the same token of other instances -> [B, Q, N, C]."""
        return self.across(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), -1)).transpose(1, 2)

    def _seen(self, x: Tensor, points: Tensor, look: Look) -> Tensor:
        """What tokens x [B, Q, N, C] take from the image, the instance token also from those of other instances -> [B, Q, N, C]."""
        alone = [] if self.across_all else [self._heard(x[:, :, :1])]
        if self.cross is not None and not self.cross_all:
            alone.append(self.cross(x[:, :, 0], *look.keys_values, look.bias).unsqueeze(2))
        whole = [] if self.samples is None else [self.samples(x, points, look.canvas, look.ground)]
        if self.cross_all:
            whole.append(self.cross(x.flatten(1, 2), *look.keys_values, look.bias).view_as(x))
        if not whole:
            return F.pad(sum(alone[1:], alone[0]), (0, 0, 0, x.shape[2] - 1)) if alone else torch.zeros_like(x)
        return _add_first(sum(whole[1:], whole[0]), sum(alone[1:], alone[0])) if alone else sum(whole[1:], whole[0])


def _add_first(update: Tensor, more: Tensor) -> Tensor:
    """[B, Q, N, C] and [B, Q, N' <= N, C] -> their sum, where there are no more tokens the first alone."""
    if update.shape[2] == more.shape[2]:
        return update + more
    first, rest = update.tensor_split((more.shape[2],), dim=2)
    return torch.cat((first + more, rest), dim=2)


def _seen_values(samples: OffsetSamples, tokens: Tensor, padding: Tensor, layout: Canvas) -> Tensor:
    """Memory [B, S, C], padding [B, S, 1] -> what the heads sample, [B * M, D, H, W]."""
    return samples.sampled(layout.place_tokens(samples.value(tokens).masked_fill(padding, 0)))


class EfficientDecoder(PoseDecoder):
    """Tied layers inside the shared refinement loop; every iteration has norms and an embedding of its own.

    The first iterations look into the image for the instance token alone: where the person is before where its joints are.
    """

    def __init__(
        self, sets: list[EfficientDecoderLayer], *, channels: int, iterations: int, early: int, classes: int, memory_stride: int,
        exit_below: float,
    ) -> None:
        super().__init__(channels=channels, iterations=iterations, classes=classes)
        self.early, self.memory_stride, self.exit_below = early, memory_stride, exit_below
        self.sets = nn.ModuleList(sets)
        self.norms = nn.ModuleList(sets[0].norms(channels, whole=i >= early) for i in range(iterations))
        self.iteration_embed = nn.Embedding(iterations, channels)

    def has_settled(self, i: int, before: Tensor, after: Tensor) -> bool:
        if not self.exit_below or self.training or not self.early <= i < self.iterations - 1:
            return False
        return may_ask(after) and still(before, after, self.exit_below)

    def prepare(self, memory: Memory) -> list[Look]:
        layout = Canvas(memory.shapes, self.memory_stride)
        padding = memory.padding.unsqueeze(-1)
        cells = bias = None
        if self.sets[0].cross is not None:
            canvas = layout.place_tokens(memory.tokens.masked_fill(padding, 0))
            pooled, valid = layout.pool(canvas, layout.place_tokens((~padding).to(canvas.dtype)))
            cells, bias = pooled.flatten(1, 2), ((valid.flatten(1) - 1) * (torch.finfo(canvas.dtype).max / 2))[:, None, None]
        ground = Ground.on(layout, memory.valid_ratios)
        return [
            Look(
                keys_values=None if cells is None else each.cross.keys_values(cells),
                bias=bias,
                canvas=None if each.samples is None else _seen_values(each.samples, memory.tokens, padding, layout),
                ground=ground,
            )
            for each in self.sets
        ]

    def logits(self, points: Tensor) -> Tensor:
        return torch.logit(points, eps=LOGIT_EPS)

    def placed(self, i: int) -> slice:
        return slice(0, 1) if i < self.early else slice(None)

    def iterate(self, i: int, x: Tensor, query_pos: Tensor, points: Tensor, context: list[Look]) -> Tensor:
        which = max(0, i - self.early) % len(self.sets)
        layer, look, pos = self.sets[which], context[which], query_pos.add_(self.iteration_embed.weight[i])
        if i >= self.early:
            return layer(x, pos, points, look, self.norms[i])
        return torch.cat((layer.look_around(x[:, :, :1], pos, points[:, :, :1], look, self.norms[i]), x[:, :, 1:]), dim=2)


def build_efficient_conv_attention_transformer(args: Any) -> PoseTransformer:
    """The replacement from the shared arguments (a ModelArgs or any object with upstream's names). Raises UsageError.

    What the published description fixes for the replacement (heads, encoder blocks, MLP ratio) comes from the `efficient_` arguments
    and stands in `built` under the shared name; shared arguments that are not in `built` are not used.
    """
    args = ModelArgs.of(args)
    channels, heads, ratio = args.hidden_dim, args.efficient_nheads, args.efficient_mlp_ratio
    block = {"heads": heads, "ratio": ratio, "rank": args.efficient_rank, "dropout": args.dropout}
    encoder = EfficientEncoder(
        [EncoderBlock(channels, **block, value_conv=args.efficient_value_conv) for _ in range(args.efficient_encoder_sets)],
        channels=channels,
        blocks=args.efficient_enc_layers,
        stride=args.efficient_encoder_stride,
        local_conv=args.efficient_local_conv,
        window=args.efficient_window,
        samples=_samples(args, SamplesInTurn, width=args.hidden_dim // 2) if args.efficient_encoder_samples else None,
    )
    original = args.efficient_decoder == "original"
    used = (
        *("hidden_dim", "dec_layers", "num_feature_levels", "num_queries", "num_body_points", "num_classes", "dropout"),
        *("learnable_tgt_init", "two_stage_type"),
        *(("nheads", "dec_n_points", "within_type", "transformer_activation") if original else ()),
        *(option.name for option in dataclasses.fields(args) if option.name.startswith(EFFICIENT_PREFIX)),
    )
    model = PoseTransformer(
        encoder=encoder,
        decoder=original_decoder(args) if original else _own_decoder(args),
        channels=channels,
        levels=args.num_feature_levels,
        keypoints=args.num_body_points,
        classes=args.num_classes,
        pose_after_selection=True,
        query_buffer=args.num_queries if args.learnable_tgt_init else None,
        built={
            **{name: getattr(args, name) for name in used},
            "enc_layers": args.efficient_enc_layers,
            "dim_feedforward": original_hidden(args) if original else ratio * channels,
            **({} if original else {"nheads": heads, "transformer_activation": "gelu"}),
        },
    )
    model.reset_parameters()
    return model


def _samples(args: ModelArgs, kind: type[OffsetSamples], *, width: int) -> OffsetSamples:
    """Samples of that width, or of the whole one where the heads do not divide it."""
    heads = args.efficient_sample_heads or args.nheads
    return kind(
        args.hidden_dim, levels=args.num_feature_levels, heads=heads, points=args.efficient_sample_points,
        width=args.hidden_dim if width % heads else width,
    )


def _own_decoder(args: ModelArgs) -> EfficientDecoder:
    channels, early = args.hidden_dim, min(args.efficient_instance_iterations, args.dec_layers // 2)
    sets = [
        EfficientDecoderLayer(
            channels,
            heads=args.efficient_nheads,
            ratio=args.efficient_decoder_mlp_ratio or args.efficient_mlp_ratio,
            rank=args.efficient_rank,
            dropout=args.dropout,
            tokens=args.num_body_points + 1,
            graph_bias=args.efficient_graph_bias,
            hops=args.efficient_skeleton_hops,
            cross_tokens=args.efficient_cross_tokens,
            samples=_samples(args, OffsetSamples, width=args.hidden_dim) if args.efficient_point_samples else None,
            look_mlp=args.efficient_look_mlp,
            across_tokens=args.efficient_across_tokens,
        )
        for _ in range(min(args.efficient_decoder_sets, args.dec_layers - early))
    ]
    return EfficientDecoder(
        sets, channels=channels, iterations=args.dec_layers, early=early, classes=args.num_classes,
        memory_stride=args.efficient_memory_stride, exit_below=args.efficient_exit_below,
    )
