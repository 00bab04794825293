"""The original's decoder behind the replacement's encoder: for whom accuracy counts more than hundreds of queries.

Its layers are those of `baselines.fused`, used in turn by the iterations. Changed on purpose: samples begin as near to the reference point
as the replacement's own, whatever the map's size.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from baselines.fused import FusedDecoder, FusedDecoderLayer, FusedDeformableAttention
from baselines.transformer import decoder_layers
from efficient.layers import RING
from humar_bench.args import ModelArgs


class NearDeformableAttention(FusedDeformableAttention):
    """Deformable attention whose samples begin `RING` of a token apart instead of a token."""

    def reset_own_parameters(self) -> None:
        super().reset_own_parameters()
        with torch.no_grad():
            self.sampling_offsets.bias.mul_(RING)


class NearDecoderLayer(FusedDecoderLayer):
    """The original's decoder layer with nearer samples."""

    deformable: ClassVar = NearDeformableAttention


def original_decoder(args: ModelArgs) -> FusedDecoder:
    """`efficient_decoder_sets` of the original's layers, as its own arguments say."""
    layers = decoder_layers(args, NearDecoderLayer, args.efficient_decoder_sets)
    return FusedDecoder(layers, channels=args.hidden_dim, classes=args.num_classes, iterations=args.dec_layers)
