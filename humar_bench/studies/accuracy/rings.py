"""The original with its first sampling points nearer: for maps so small that the published ring would cover much of them.

Deformable attention starts with points 1, 2, 3 and 4 cells away (Deformable DETR, section 4.1 and its code), whatever the map's size: on
the published model's finest map of 60x80 cells that is 6 % of a side, on one of 16x16 a quarter. Scaled, it is the same share of a side as
there. Training moves the points from where they start, in both.
"""

from __future__ import annotations

import importlib
import math
import re
from typing import Any

from humar_bench.args import BUILT_IN, PHOTO, Size, pyramid

RING = "ring_"
LEAST_SIDE = 32  # cells of the finest map from which on the published ring is left as it is
ORIGINAL = "original"


def ring_of(image_size: Size) -> float:
    """The factor that makes the ring on an image's finest map the share of a side that it is on the published model's; 1 at most."""
    (own, *_), (published, *_) = pyramid(image_size, 1), pyramid(PHOTO, 1)
    return min(1.0, math.sqrt(math.prod(own) / math.prod(published)))


def ring_spec(factor: float) -> str:
    """The builder of the original with its ring scaled by `factor`: 0.23 -> '...rings:ring_0_23'."""
    return f"{__name__}:{RING}{f'{factor:.2f}'.replace('.', '_')}"


def is_original(spec: str) -> bool:
    """Whether a builder is the original's, with either ring."""
    return spec == ORIGINAL or spec.startswith(f"{__name__}:{RING}")


def __getattr__(name: str) -> Any:
    """`ring_0_23`: builds the original with its initial sampling offsets times 0.23."""
    if not re.fullmatch(rf"{RING}\d_\d\d", name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    factor = float(name.removeprefix(RING).replace("_", "."))

    def build(args: Any) -> Any:
        import torch

        module, _, builder = BUILT_IN[ORIGINAL].partition(":")
        model = getattr(importlib.import_module(module), builder)(args)
        with torch.no_grad():
            for each in model.modules():
                if hasattr(each, "sampling_offsets"):
                    each.sampling_offsets.bias.mul_(factor)
        return model

    return build
