"""The replacement for whom accuracy counts most: its encoder before the original's decoder, whose layer all iterations share."""

from __future__ import annotations

import dataclasses
from typing import Any

from efficient.transformer import build_efficient_conv_attention_transformer
from humar_bench.args import ModelArgs
from humar_bench.skeleton.pose_transformer import PoseTransformer


def build_accurate_transformer(args: Any) -> PoseTransformer:
    """`efficient` with `efficient_decoder=original`, whatever that is in the arguments. Raises UsageError."""
    return build_efficient_conv_attention_transformer(dataclasses.replace(ModelArgs.of(args), efficient_decoder="original"))
