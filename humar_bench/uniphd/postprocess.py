"""From a model's outputs to people in pixels of the original pictures.

Source: UniPHD's post-processing (as GroupPose and DETR do it). Nothing here waits for the device.

Shapes: B pictures, Q queries, K keypoints, H, W the padded batch, h, w a resized picture, N = min(20, Q) kept of a picture.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from humar_bench.args import Size
from humar_bench.errors import UsageError

KEPT = 20
PERSON = 1  # the label of everything that is found


@dataclass(frozen=True)
class Detections:
    """What is found in one picture, the best score first. A query stands in it once for every class that is kept."""

    scores: Tensor  # [N]
    labels: Tensor  # [N] int64
    boxes: Tensor  # [N, 4] (x0, y0, x1, y1) in pixels of the original picture
    keypoints: Tensor  # [N, 3K] x1 y1 s1 ... xK yK sK, s the model's constant score
    masks: Tensor | None  # [N, height, width] bool; [1, height, width] of the best where the model made that alone

    @property
    def best_keypoints(self) -> Tensor:
        """[3K] of the best-scored query."""
        return self.keypoints[0]

    def to(self, device: torch.device | str) -> Detections:
        """The same on `device`."""
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(self, **moved)


def postprocess(outputs: Any, sizes: Sequence[Size], orig_sizes: Sequence[Size], *, masks: bool = True) -> list[Detections]:
    """Detections of every picture.

    outputs: a mapping, or an object with attributes, of `pred_logits` [B, Q, classes], `pred_boxes` [B, Q, 4] (cx, cy, w, h),
    `pred_keypoints` [B, Q, 3K] and `pred_masks` [B, Q, H, W] logits ([B, 1, H, W]: of the best-scored query alone; None: no masks).
    sizes, orig_sizes: (height, width) of every picture as resized and as it was, on the host. The N best of Q * classes scores are kept,
    label 1 whatever their class, as published. `masks` false leaves the masks out. Raises UsageError when the sizes do not fit.
    """
    logits, boxes, keypoints, pred_masks = (_get(outputs, name) for name in ("pred_logits", "pred_boxes", "pred_keypoints", "pred_masks"))
    batch, queries, classes = logits.shape
    for name, given in (("sizes", sizes), ("orig_sizes", orig_sizes)):
        if len(given) != batch:
            raise UsageError(f"{name} has {len(given)} entries for {batch} pictures; give (height, width) of each.")
    sizes, orig_sizes = ([(int(height), int(width)) for height, width in each] for each in (sizes, orig_sizes))

    scores, chosen = logits.float().sigmoid().flatten(1).topk(min(KEPT, queries), dim=1)
    query = chosen // classes  # [B, N]
    picture = torch.arange(batch, device=query.device)[:, None]
    extent = _extents(orig_sizes, boxes.device)  # [B, 1, 2] (width, height)
    centre, half = boxes[picture, query].float().split(2, dim=-1)
    half = half / 2
    boxes = torch.cat(((centre - half) * extent, (centre + half) * extent), dim=-1)
    keypoints = _interleave(keypoints[picture, query].float(), extent)
    found = _masks(pred_masks, query, sizes, orig_sizes) if masks and pred_masks is not None else [None] * batch
    label = torch.full_like(query, PERSON)
    return [Detections(*rows) for rows in zip(scores, label, boxes, keypoints, found, strict=True)]


def _get(outputs: Any, key: str) -> Any:
    return outputs.get(key) if isinstance(outputs, Mapping) else getattr(outputs, key, None)


def _extents(orig_sizes: list[Size], device: torch.device) -> Tensor:
    """(width, height) of the original pictures [B, 1, 2] as float32, in a copy that nothing waits for."""
    extent = torch.tensor(orig_sizes, dtype=torch.float32).flip(1)[:, None]
    return (extent.pin_memory() if device.type == "cuda" else extent).to(device, non_blocking=True)


def _interleave(keypoints: Tensor, extent: Tensor) -> Tensor:
    """[B, N, 3K] as x1 y1 ... xK yK s1 ... sK, fractions -> x1 y1 s1 ... xK yK sK, pixels."""
    number = keypoints.shape[-1] // 3
    points, score = keypoints.split((2 * number, number), dim=-1)
    points = points.unflatten(-1, (number, 2)) * extent[:, :, None]
    return torch.cat((points, score.unsqueeze(-1)), dim=-1).flatten(-2)


def _masks(logits: Tensor, query: Tensor, sizes: list[Size], orig_sizes: list[Size]) -> list[Tensor]:
    """Logits [B, Q or 1, H, W] of the kept queries [B, N] -> masks [N or 1, height, width] of every picture at its original size.

    Pictures of equal sizes are resized together, and no query twice, even one that was kept twice, unless most are not kept at all.
    """
    if any(size > full for of_picture in sizes for size, full in zip(of_picture, logits.shape[-2:], strict=True)):
        raise UsageError(f"a picture of sizes {sizes} is larger than the masks, {tuple(logits.shape[-2:])}; give the sizes before padding.")
    made, kept = logits.shape[1], query.shape[1]
    if made > kept:
        logits = logits[torch.arange(len(query), device=query.device)[:, None], query]
    alike = defaultdict(list)
    for picture, both in enumerate(zip(sizes, orig_sizes, strict=True)):
        alike[both].append(picture)
    masks: list[Any] = [None] * len(sizes)
    for ((height, width), original), pictures in alike.items():
        cut = torch.stack([logits[picture, :, :height, :width] for picture in pictures]).float()
        resized = F.interpolate(cut, size=original, mode="bilinear", align_corners=False) > 0  # sigmoid > 0.5
        for picture, of_queries in zip(pictures, resized, strict=True):
            masks[picture] = of_queries.index_select(0, query[picture]) if made == kept else of_queries
    return masks
