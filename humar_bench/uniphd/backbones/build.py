"""From a name to its backbone."""

from __future__ import annotations

from torch import nn

from humar_bench.args import BACKBONES, SMALL_BACKBONES, Size
from humar_bench.errors import UsageError
from humar_bench.uniphd.backbones import efficientformer, hugging_face
from humar_bench.uniphd.backbones.efficientformer import EfficientFormerV2
from humar_bench.uniphd.backbones.hugging_face import HuggingFaceBackbone
from humar_bench.uniphd.backbones.small import SmallConvBackbone
from humar_bench.uniphd.backbones.swin import SwinTransformer


def build_backbone(name: str, image_size: Size = (480, 640)) -> nn.Module:
    """The backbone of a name of `BACKBONES` or `SMALL_BACKBONES`, random weights.

    `forward(images [B, 3, H, W])` gives four maps [B, C_i, H_i, W_i];
    `channels` are the C_i. Only EfficientFormerV2 reads `image_size`: its parameters depend on it. Images of any size work with all of
    them, from 32x32 with those of transformers. Raises UsageError for an unknown name and where transformers is missing.
    """
    if name in SMALL_BACKBONES:
        return SmallConvBackbone()
    if name not in BACKBONES:
        raise UsageError(f"backbone is {name!r}; choose one of {', '.join((*BACKBONES, *SMALL_BACKBONES))}.")
    if name in hugging_face.PUBLISHED:
        return HuggingFaceBackbone(name)
    if name in efficientformer.PUBLISHED:
        return EfficientFormerV2(name, image_size)
    return SwinTransformer()
