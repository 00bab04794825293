"""The original: UniPHD's deformable pose transformer, as published and with fused operators."""

from baselines.fused import build_fused_transformer
from baselines.transformer import build_transformer

__all__ = ["build_fused_transformer", "build_transformer"]
