"""The published description to the letter: untied weights, every token at full resolution, all tokens attend to the whole memory.

Its cross-attention is torch's standard one as it comes, which also gives back the weights, averaged over the heads.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from efficient import build_efficient_conv_attention_transformer
from efficient.layers import CrossAttention, merge_heads, split_heads
from humar_bench.args import ModelArgs


class WeighingCrossAttention(CrossAttention):
    """Cross-attention that makes all its weights and hands their mean to nobody."""

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        queries = split_heads(self.q(x), self.heads)
        weights = (queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5 + bias).softmax(-1)
        self.mean = weights.mean(1)
        del self.mean
        return self.out(merge_heads(weights @ values))


def build(args):
    args = ModelArgs.of(args)
    model = build_efficient_conv_attention_transformer(dataclasses.replace(
        args, efficient_encoder_sets=args.efficient_enc_layers, efficient_decoder_sets=args.dec_layers, efficient_encoder_stride=1,
        efficient_memory_stride=1, efficient_cross_tokens="all", efficient_encoder_samples=False, efficient_point_samples=False,
        efficient_value_conv=False, efficient_look_mlp=False, efficient_instance_iterations=0,
    ))
    for layer in model.decoder.sets:
        layer.cross.__class__ = WeighingCrossAttention
    return model
