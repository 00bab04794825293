"""Images of several sizes as one batch.

Shapes: B batch, (H, W) the padded image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from humar_bench.errors import UsageError

MULTIPLE = 16  # both sides of a padded image are multiples of it


class Batch(NamedTuple):
    """The first, second and last argument of a whole model."""

    images: Tensor  # [B, 3, H, W], zero under padding
    padding: Tensor  # [B, H, W], True = padding
    sizes: Tensor  # [B, 2], (height, width) of each image without padding


def padded_batch(images: Sequence[Tensor]) -> Batch:
    """Put images [3, h, w], normalised already, top-left into one tensor as large as the largest, rounded up to multiples of 16.

    Raises UsageError when there is none, or one has another shape.
    """
    if not images:
        raise UsageError("the batch has no images; give at least one.")
    for index, image in enumerate(images):
        if image.dim() != 3 or image.shape[0] != 3 or not image.numel():
            raise UsageError(f"image {index} has shape {tuple(image.shape)}; it must be [3, height, width].")
    first = images[0]
    height, width = (-(-max(image.shape[side] for image in images) // MULTIPLE) * MULTIPLE for side in (1, 2))
    batch = first.new_zeros(len(images), 3, height, width)
    padding = torch.ones(len(images), height, width, dtype=torch.bool, device=first.device)
    for index, image in enumerate(images):
        batch[index, :, : image.shape[1], : image.shape[2]] = image
        padding[index, : image.shape[1], : image.shape[2]] = False
    return Batch(batch, padding, torch.tensor([image.shape[1:] for image in images], device=first.device))
