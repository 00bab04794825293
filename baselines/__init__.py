"""The original: UniPHD's deformable pose transformer."""

from baselines.transformer import build_transformer

__all__ = ["build_transformer"]
