"""The replacement for whom accuracy counts most: its encoder before the original's decoder, whose layer all iterations share.

One weight set in the encoder and networks of ratio 4 in the decoder, the proportions that `results/cpu-accuracy` trained.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from efficient.transformer import build_efficient_conv_attention_transformer
from humar_bench.args import ACCURATE, ModelArgs
from humar_bench.skeleton.pose_transformer import PoseTransformer


def build_accurate_transformer(args: Any) -> PoseTransformer:
    """`efficient` with what `ACCURATE` says, whatever that is in the arguments. Raises UsageError."""
    return build_efficient_conv_attention_transformer(dataclasses.replace(ModelArgs.of(args), **ACCURATE))
