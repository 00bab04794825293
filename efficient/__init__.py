"""The replacement: depthwise separable convolutions, linear attention and graph attention."""

from efficient.accurate import build_accurate_transformer
from efficient.fused import build_fused_efficient_transformer
from efficient.transformer import build_efficient_conv_attention_transformer

__all__ = ["build_accurate_transformer", "build_efficient_conv_attention_transformer", "build_fused_efficient_transformer"]
