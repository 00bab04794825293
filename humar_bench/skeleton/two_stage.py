"""Two-stage proposals: a candidate pose at every memory token, the best Q of them start the decoder.

Source: Deformable DETR (Zhu et al. 2021), section 4.2, with poses for boxes as in GroupPose (Liu et al. 2023).
Shapes: B batch, S memory tokens, C width, Q queries, K keypoints, N = K + 1 tokens of an instance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humar_bench.skeleton.geometry import Shapes, per_token

BORDER = 0.01  # proposals this close to the border of the valid image are not used
FIRST_SIDE = 0.05  # side of a proposal on the finest level, of the image's; it doubles from level to level


def proposals(centres: Tensor, sizes: Tensor, padding: Tensor, shapes: Shapes) -> tuple[Tensor, Tensor]:
    """Logits of the proposals' centres, and which tokens have none.

    centres [S, 2] in cells, sizes [B, L, 2] valid (width, height) in cells, padding [B, S] -> logits [B, S, 2] (+inf where there is none),
    invalid [B, S].
    """
    points = centres / per_token(sizes, shapes)
    inside = ((points > BORDER) & (points < 1 - BORDER)).all(-1)
    offending = [not BORDER < FIRST_SIDE * 2.0**level < 1 - BORDER for level in range(len(shapes))]
    if any(offending):  # levels so coarse that a proposal would be larger than the image
        first = sum(height * width for (height, width), bad in zip(shapes, offending, strict=True) if not bad)
        inside = torch.cat((inside[:, :first], torch.zeros_like(inside[:, first:])), dim=1)
    invalid = padding | ~inside
    logits = torch.log(points / (1 - points)).masked_fill(invalid.unsqueeze(-1), float("inf"))
    return logits, invalid


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, Q] of x [B, S, D] -> [B, Q, D]."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def place_keypoints(offsets: Tensor, logits: Tensor) -> Tensor:
    """Offsets [..., 2K] as (dx, dy) pairs around proposal logits [..., 2] -> keypoints in the image, [..., 2K]."""
    return (offsets.unflatten(-1, (-1, 2)) + logits.unsqueeze(-2)).sigmoid().flatten(-2)


def with_centre(keypoints: Tensor) -> Tensor:
    """Keypoints [..., K, 2] -> their mean, then they themselves: [..., N, 2]."""
    return torch.cat((keypoints.mean(-2, keepdim=True), keypoints), dim=-2)
