"""What is read off the tokens of each decoder layer: class, box, keypoints, visibility.

Source: UniPHD, after GroupPose (Liu et al. 2023). The reference points are not detached here: a layer's loss also trains the layer before
through the step it made (look forward twice, Zhang et al. 2022, section 3.5).

Shapes: B batch, Q queries, K keypoints, N = K + 1 tokens of an instance (0 is the instance token), C width.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humar_bench.skeleton.layers import inverse_sigmoid

THIRD_COLUMN = 1 / (1 + math.exp(-1))  # upstream sends a constant 1 through the sigmoid; evaluation reads it as a score


class LayerOutput(NamedTuple):
    """What one decoder layer says. Coordinates are fractions of the image without its padding."""

    pred_logits: Tensor  # [B, Q, classes]
    pred_boxes: Tensor  # [B, Q, 4], (cx, cy, w, h)
    pred_keypoints: Tensor  # [B, Q, 3K], x1 y1 ... xK yK, then K times sigmoid(1)
    pred_keypoints_visi: Tensor | int  # [B, Q, K] logits, or 0 without heads for it


class ProposalOutput(NamedTuple):
    """What the chosen proposals say, with gradient: for a loss on the two-stage scheme itself."""

    pred_logits: Tensor  # [B, Q, classes]
    pred_keypoints: Tensor  # [B, Q, 3K], as in `LayerOutput`
    mix_embedding: Tensor  # [B, Q, C], the memory tokens they were read off


def copies(head: nn.Module, layers: int) -> nn.ModuleList:
    """One head a layer, all from the same draw."""
    return nn.ModuleList(copy.deepcopy(head) for _ in range(layers))


def with_third_column(keypoints: Tensor) -> Tensor:
    """Coordinates [..., 2K] -> [..., 3K]."""
    return F.pad(keypoints, (0, keypoints.shape[-1] // 2), value=THIRD_COLUMN)


def boxes(head: nn.Module, instance: Tensor, centre: Tensor) -> Tensor:
    """Boxes of instance tokens [B, Q, C] around reference centres [B, Q, 2] -> [B, Q, 4]."""
    return (head(instance) + F.pad(inverse_sigmoid(centre), (0, 2))).sigmoid()


def keypoints(head: nn.Module, tokens: Tensor, points: Tensor, refined: Tensor) -> Tensor:
    """Keypoints of tokens [B, Q, K, C] around reference points [B, Q, 2K] -> [B, Q, 2K].

    `refined` is what the transformer made of the same step: the same numbers, whose gradient does not reach `points`. Taken as they are
    where no gradient is wanted.
    """
    if not torch.is_grad_enabled():
        return refined
    return (inverse_sigmoid(points) + head(tokens).flatten(-2)).sigmoid()
