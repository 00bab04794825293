"""Backbones of the whole model, by name: images in, four maps at strides 4, 8, 16, 32 out."""

from humar_bench.uniphd.backbones.build import build_backbone

__all__ = ["build_backbone"]
