"""The original: the deformable pose transformer of UniPHD, written from its description.

Source: UniPHD (Referring Human Pose and Mask Estimation in the Wild, 2024) and its fork HuMAR, after GroupPose (Liu et al. 2023) and
Deformable DETR (Zhu et al. 2021). Deviations: those of `humar_bench.skeleton.pose_transformer`, and the heads are attached here.

Shapes: B batch, L levels, S memory tokens, C width, M heads, Q queries, N = K + 1 tokens of an instance (0 is the instance token).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.deformable_attention import DeformableAttention
from humar_bench.args import EFFICIENT_PREFIX, ModelArgs
from humar_bench.skeleton.geometry import Shapes, flatten_levels, level_sizes, per_token, token_centres
from humar_bench.skeleton.pose_transformer import Memory, PoseDecoder, PoseTransformer

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}
CONSTANT_BIAS = 1e-8  # the graph bias of `within_type="attn"`


class EncoderLayer(nn.Module):
    """Deformable self-attention, then a feed-forward network; each with residual and LayerNorm after."""

    deformable: ClassVar = DeformableAttention

    def __init__(self, *, channels: int, heads: int, hidden: int, levels: int, points: int, dropout: float, activation: str) -> None:
        super().__init__()
        self.self_attn = self.deformable(channels=channels, heads=heads, levels=levels, points=points)
        self.norm1 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor, pos: Tensor, points: Tensor, padding: Tensor, shapes: Shapes, sizes: Tensor) -> Tensor:
        """x, pos [B, S, C], points [B, S, L, 2] -> [B, S, C]."""
        x = self.norm1(x + self.dropout(self.self_attn(x + pos, points, x, padding, shapes, sizes)))
        hidden = self.dropout(self.activation(self.linear1(x)))
        return self.norm2(x + self.dropout(self.linear2(hidden)))


class Encoder(nn.Module):
    """Deformable encoder layers over the tokens of all levels."""

    def __init__(self, layers: list[EncoderLayer], *, norm: nn.LayerNorm | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(
        self, srcs: list[Tensor], pos_embeds: list[Tensor], level_embed: Tensor | None, padding: Tensor, valid_ratios: Tensor
    ) -> Tensor:
        """L maps and embeddings [B, C, H_l, W_l], level_embed [L, C], padding [B, S], valid_ratios [B, L, 2] -> memory [B, S, C]."""
        shapes = [(src.shape[2], src.shape[3]) for src in srcs]
        x, pos = flatten_levels(srcs), flatten_levels(pos_embeds)
        if level_embed is not None:
            pos = pos + torch.cat([row.expand(h * w, -1) for row, (h, w) in zip(level_embed, shapes, strict=True)])
        centres = token_centres(shapes, like=valid_ratios)
        sizes = level_sizes(centres, shapes)
        points = (centres / per_token(valid_ratios * sizes, shapes)).unsqueeze(2) * valid_ratios.unsqueeze(1)  # [B, S, L, 2]
        for layer in self.layers:
            x = layer(x, pos, points, padding, shapes, sizes)
        return x if self.norm is None else self.norm(x)


class DecoderLayer(nn.Module):
    """Across instances, into the image, within the instance, with two feed-forward networks; LayerNorm after each."""

    deformable: ClassVar = DeformableAttention
    attention: ClassVar = nn.MultiheadAttention

    def __init__(
        self,
        *,
        channels: int,
        heads: int,
        hidden: int,
        levels: int,
        points: int,
        tokens: int,
        dropout: float,
        activation: str,
        learned_bias: bool,
    ) -> None:
        super().__init__()
        if learned_bias:
            self.adjacent_matrix = nn.Parameter(torch.empty(heads, tokens, tokens))
        else:
            self.register_buffer("adjacent_matrix", torch.full((heads, tokens, tokens), CONSTANT_BIAS), persistent=False)
        self.within_attn = self.attention(channels, heads, dropout=dropout)
        self.within_norm = nn.LayerNorm(channels)
        self.across_attn = self.attention(channels, heads, dropout=dropout)
        self.across_norm = nn.LayerNorm(channels)
        self.cross_attn = self.deformable(channels=channels, heads=heads, levels=levels, points=points)
        self.norm1 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.linear1_ = nn.Linear(channels, hidden)
        self.linear2_ = nn.Linear(hidden, channels)
        self.norm2_ = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor, query_pos: Tensor, points: Tensor, memory: Memory) -> Tensor:
        """x, query_pos [B, Q, N, C], points [B, Q, N, 2] -> [B, Q, N, C]."""
        batch, queries, tokens, _ = x.shape
        drop = self.dropout
        keypoint_pos = torch.cat((torch.zeros_like(query_pos[:, :, :1]), query_pos[:, :, 1:]), dim=2)

        same = x.permute(1, 0, 2, 3).flatten(1, 2)  # [Q, B*N, C]: queries of one image, one token type
        attended = self.across_attn(same, same, same, average_attn_weights=False)[0].unflatten(1, (batch, tokens)).permute(1, 0, 2, 3)
        x = self.across_norm(x + drop(attended))

        x = x + keypoint_pos  # stays in the residual stream, as upstream
        flat = x.flatten(1, 2)
        places = (points.unsqueeze(-2) * memory.valid_ratios[:, None, None]).flatten(1, 2)  # [B, Q*N, L, 2]
        attended = self.cross_attn(flat, places, memory.tokens, memory.padding, memory.shapes, memory.sizes)
        x = self.norm1(x + drop(attended).view_as(x))
        x = self.norm2(x + drop(self.linear2(drop(self.activation(self.linear1(x))))))

        x = x + keypoint_pos
        inner = x.flatten(0, 1).transpose(0, 1)  # [N, B*Q, C]: the tokens of one instance
        bias = self.adjacent_matrix.repeat(batch * queries, 1, 1)  # [B*Q*M, N, N]
        attended = self.within_attn(inner, inner, inner, attn_mask=bias, average_attn_weights=False)[0].transpose(0, 1).reshape(x.shape)
        x = self.within_norm(x + drop(attended))
        return self.norm2_(x + drop(self.linear2_(drop(self.activation(self.linear1_(x))))))


class Decoder(PoseDecoder):
    """Decoder layers inside the shared refinement loop, one an iteration or, where there are fewer, in turn."""

    def __init__(self, layers: list[DecoderLayer], *, channels: int, classes: int, iterations: int | None = None) -> None:
        super().__init__(channels=channels, iterations=iterations or len(layers), classes=classes)
        self.layers = nn.ModuleList(layers)

    def iterate(self, i: int, x: Tensor, query_pos: Tensor, points: Tensor, context: Memory) -> Tensor:
        return self.layers[i % len(self.layers)](x, query_pos, points, context)


def build_transformer(args: Any) -> PoseTransformer:
    """The original from the shared arguments (a ModelArgs or any object with upstream's names). Raises UsageError."""
    return assemble(args, EncoderLayer, DecoderLayer, Decoder, pose_after_selection=False)


def assemble(
    args: Any, encoder_layer: type[EncoderLayer], decoder_layer: type[DecoderLayer], decoder: type[Decoder], *, pose_after_selection: bool
) -> PoseTransformer:
    """The original out of given kinds of layers; the state dict is the same for all of them. Raises UsageError."""
    args = ModelArgs.of(args)
    encoder_layers = [
        encoder_layer(
            channels=args.hidden_dim, heads=args.nheads, hidden=args.dim_feedforward, levels=args.num_feature_levels,
            points=args.enc_n_points, dropout=args.dropout, activation=args.transformer_activation,
        )
        for _ in range(args.enc_layers)
    ]
    encoder = Encoder(encoder_layers, norm=nn.LayerNorm(args.hidden_dim) if args.pre_norm else None)
    layers = decoder_layers(args, decoder_layer, args.dec_layers, hidden=args.dim_feedforward)
    names = [option.name for option in dataclasses.fields(args) if not option.name.startswith(EFFICIENT_PREFIX)]
    model = PoseTransformer(
        encoder=encoder,
        decoder=decoder(layers, channels=args.hidden_dim, classes=args.num_classes),
        channels=args.hidden_dim,
        levels=args.num_feature_levels,
        keypoints=args.num_body_points,
        classes=args.num_classes,
        pose_after_selection=pose_after_selection,
        query_buffer=args.num_queries if args.learnable_tgt_init else None,
        built={name: getattr(args, name) for name in names},
    )
    model.reset_parameters()
    return model


def decoder_layers(args: ModelArgs, kind: type[DecoderLayer], number: int, *, hidden: int) -> list[DecoderLayer]:
    """So many of the original's decoder layers as the shared arguments ask for them, their feed-forward networks `hidden` wide."""
    return [
        kind(
            channels=args.hidden_dim, heads=args.nheads, hidden=hidden, levels=args.num_feature_levels,
            points=args.dec_n_points, tokens=args.num_body_points + 1, dropout=args.dropout, activation=args.transformer_activation,
            learned_bias=args.within_type == "attn_graph",
        )
        for _ in range(number)
    ]
