"""The replacement: depthwise separable convolutions, linear attention and graph attention."""

from efficient.transformer import build_efficient_conv_attention_transformer

__all__ = ["build_efficient_conv_attention_transformer"]
