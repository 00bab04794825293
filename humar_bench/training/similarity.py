"""How alike two boxes and two poses are: generalised IoU and object keypoint similarity, for any broadcastable shapes.

Source: Rezatofighi et al., "Generalized Intersection over Union" (CVPR 2019); OKS as in COCO's keypoint evaluation, with the small
constants of UniPHD's losses. Shapes: K keypoints, ... anything that broadcasts.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from humar_bench.errors import UsageError

# Standard deviation of a keypoint as a share of the person's scale: COCO's 17, CrowdPose's 14, and head, shoulder... of three points.
_COCO = (0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89)
_CROWDPOSE = (0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89, 0.79, 0.79)
_THREE = (1.07, 1.07, 0.67)
SIGMAS = {len(tenths): tuple(each / 10 for each in tenths) for tenths in (_COCO, _CROWDPOSE, _THREE)}

IOU_EPSILON = OKS_EPSILON = 1e-6
SMALLEST_AREA = 1e-12  # a person of no area would divide 0 by 0


def keypoint_sigmas(keypoints: int) -> tuple[float, ...]:
    """sigma of each of `keypoints` keypoints. Raises UsageError where no convention has that many."""
    if keypoints not in SIGMAS:
        raise UsageError(f"there is no OKS for {keypoints} keypoints; choose one of {', '.join(map(str, sorted(SIGMAS)))}.")
    return SIGMAS[keypoints]


@lru_cache
def _scales(keypoints: int, like: tuple[torch.device, torch.dtype]) -> Tensor:
    """2 (2 sigma)^2 [K]; kept, because making it from host numbers waits for the device."""
    device, dtype = like
    return 2 * (2 * torch.tensor(keypoint_sigmas(keypoints), device=device, dtype=dtype)) ** 2


def oks(points: Tensor, truth: Tensor, visible: Tensor, area: Tensor) -> Tensor:
    """Object keypoint similarity, at least 1e-6.

    points, truth [..., K, 2] and area [...] in the same unit (area in its square), visible [..., K] 0 or 1 -> [...]. Without a visible
    keypoint it is 1e-6. Raises UsageError for a K without sigmas.
    """
    squared = (points - truth).square().sum(-1)
    scales = _scales(squared.shape[-1], (squared.device, squared.dtype))
    near = torch.exp(-squared / (area.clamp(min=SMALLEST_AREA).unsqueeze(-1) * scales))
    return ((near * visible).sum(-1) / (visible.sum(-1) + OKS_EPSILON)).clamp(min=OKS_EPSILON)


def corners(boxes: Tensor) -> Tensor:
    """(cx, cy, w, h) [..., 4] -> (x0, y0, x1, y1) [..., 4]."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def giou(boxes: Tensor, truth: Tensor) -> Tensor:
    """Generalised IoU of corner boxes [..., 4] -> [...]: I / (U + 1e-6) - (A - U) / (A + 1e-6), A the smallest enclosing box."""
    inside = _area(torch.maximum(boxes[..., :2], truth[..., :2]), torch.minimum(boxes[..., 2:], truth[..., 2:]))
    around = _area(torch.minimum(boxes[..., :2], truth[..., :2]), torch.maximum(boxes[..., 2:], truth[..., 2:]))
    union = _area(boxes[..., :2], boxes[..., 2:]) + _area(truth[..., :2], truth[..., 2:]) - inside
    return inside / (union + IOU_EPSILON) - (around - union) / (around + IOU_EPSILON)


def _area(low: Tensor, high: Tensor) -> Tensor:
    """Area of boxes between corners [..., 2]; 0 where they do not exist."""
    width, height = (high - low).clamp(min=0).unbind(-1)
    return width * height
