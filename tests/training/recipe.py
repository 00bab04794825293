"""Outputs and targets of the golden files of losses and post-processing: everything from seeds, nothing stored."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Sizes = list[tuple[int, int]]
THIRD_COLUMN = 0.7310586  # what the model writes behind every pose: sigmoid(1)


def normal(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def whole(seed: int, low: int, high: int, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).randint(low, high, shape))


def uniform(seed: int, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).uniform(low, high, shape).astype(np.float32))


def padded(sizes: Sizes, multiple: int = 16) -> tuple[int, int]:
    """(H, W) of a batch of images of these sizes."""
    height, width = (-(-max(size[i] for size in sizes) // multiple) * multiple for i in (0, 1))
    return height, width


def boxes(seed: int, number: int) -> Tensor:
    """[number, 4] (cx, cy, w, h)."""
    return torch.cat([uniform(seed, (number, 2), 0.25, 0.75), uniform(seed + 1, (number, 2), 0.1, 0.45)], -1)


def predictions(seed: int, batch: int, queries: int, keypoints: int, height: int, width: int, classes: int = 2) -> dict[str, Tensor]:
    """One layer's outputs, without a model."""
    points = uniform(seed + 30, (batch, queries, 2 * keypoints), 0.4, 0.6)
    return {
        "pred_logits": normal(seed, (batch, queries, classes)) * 2,
        "pred_boxes": torch.stack([boxes(seed + 1 + 2 * b, queries) for b in range(batch)]),
        "pred_keypoints": torch.cat([points, torch.full((batch, queries, keypoints), THIRD_COLUMN)], -1),
        "pred_keypoints_visi": normal(seed + 31, (batch, queries, keypoints)),
        "pred_masks": normal(seed + 32, (batch, queries, height, width)) * 3,
    }


def people(seed: int, counts: list[int], keypoints: int, sizes: Sizes) -> list[dict[str, Tensor]]:
    """Targets: counts[b] people in image b of sizes[b] (h, w)."""
    targets = []
    for b, (number, (height, width)) in enumerate(zip(counts, sizes, strict=True)):
        s = seed + 10 * b
        visible = whole(s + 4, 0, 2, (number, keypoints)).float()
        visible[:, :1] = 1
        targets.append(
            {
                "labels": torch.ones(number, dtype=torch.long),
                "boxes": boxes(s, number),
                "keypoints": torch.cat([uniform(s + 3, (number, 2 * keypoints), 0.4, 0.6), visible], -1),
                "area": uniform(s + 5, (number,), 0.02, 0.3),
                "masks": whole(s + 6, 0, 2, (number, height, width)).bool(),
                "size": torch.tensor([height, width]),
            }
        )
    return targets


def smooth_masks(seed: int, batch: int, queries: int, height: int, width: int) -> Tensor:
    coarse = normal(seed, (batch, queries, height // 16, width // 16)) * 3
    return F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)


def edge(outputs: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]) -> None:
    """Shrink boxes and areas, let query 0 overlap the first person, hide that person's keypoints: where small constants show."""
    for output in outputs:
        output["pred_boxes"][..., 2:] *= 0.01
    for target in targets:
        target["boxes"][..., 2:] *= 0.01
        target["area"] *= 1e-3
        target["keypoints"][:1, target["keypoints"].shape[1] * 2 // 3 :] = 0
    for output in outputs:
        for b, target in enumerate(targets):
            output["pred_boxes"][b, :1] = target["boxes"][:1] + 0.0005


def in_type(tensors: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The same numbers, floating-point ones in another type."""
    return {name: each.to(dtype) if each.is_floating_point() else each for name, each in tensors.items()}
