"""The original's decoder behind the replacement's encoder: for whom accuracy counts more than hundreds of queries.

Its layers are those of `baselines.fused`, used in turn by the iterations. Changed on purpose: what a layer samples is projected once and
not by each iteration that uses it, and samples begin as near to the reference point as the replacement's own, whatever the map's size.

Shapes: B batch, S memory tokens, C width, Q queries, N tokens of an instance.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from baselines.fused import FusedDecoder, FusedDecoderLayer, FusedDeformableAttention
from baselines.transformer import decoder_layers
from efficient.layers import RING
from humar_bench.args import ModelArgs
from humar_bench.skeleton.pose_transformer import Memory


class NearDeformableAttention(FusedDeformableAttention):
    """Deformable attention to values that are projected already, whose samples begin `RING` of a token apart instead of a token."""

    def values(self, memory: Tensor) -> Tensor:
        return memory

    def reset_own_parameters(self) -> None:
        super().reset_own_parameters()
        with torch.no_grad():
            self.sampling_offsets.bias.mul_(RING)


class NearDecoderLayer(FusedDecoderLayer):
    """The original's decoder layer with nearer samples."""

    deformable: ClassVar = NearDeformableAttention


class TiedDecoder(FusedDecoder):
    """The original's refinement loop, whose layers see the memory by their own projection."""

    def prepare(self, memory: Memory) -> list[Memory]:
        return [memory._replace(tokens=layer.cross_attn.value_proj(memory.tokens)) for layer in self.layers]

    def iterate(self, i: int, x: Tensor, query_pos: Tensor, points: Tensor, context: list[Memory]) -> Tensor:
        return super().iterate(i, x, query_pos, points, context[i % len(context)])


def original_decoder(args: ModelArgs) -> TiedDecoder:
    """`efficient_decoder_sets` of the original's layers, as its own arguments say; `efficient_decoder_mlp_ratio` may say how wide."""
    layers = decoder_layers(args, NearDecoderLayer, args.efficient_decoder_sets, hidden=original_hidden(args))
    return TiedDecoder(layers, channels=args.hidden_dim, classes=args.num_classes, iterations=args.dec_layers)


def original_hidden(args: ModelArgs) -> int:
    """Hidden width of its feed-forward networks."""
    return args.efficient_decoder_mlp_ratio * args.hidden_dim or args.dim_feedforward
