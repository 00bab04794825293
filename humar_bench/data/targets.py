"""What a picture is labelled with: `Target` for one picture, `TargetBatch` for the padded batch a loss reads.

Shapes: B pictures, m people of one picture, M the most people of any picture, n the people of all pictures, K keypoints, h, w a resized
picture, H, W the batch. Coordinates are fractions of the resized picture's width and height.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from humar_bench.args import Size
from humar_bench.errors import UsageError

MASK_DIVISOR = 16  # sides of a batch are multiples of this, as upstream pads


@dataclass(frozen=True)
class Target:
    """The m people of one picture; the names of upstream's target dict. Raises UsageError when shapes do not fit together.

    Sizes are host numbers, so that no loss has to ask a device for them.
    """

    labels: Tensor  # [m] int64, category id: 1 is a person
    boxes: Tensor  # [m, 4] (cx, cy, w, h)
    keypoints: Tensor  # [m, 3K] x1 y1 ... xK yK, then K visibilities 0 or 1
    area: Tensor  # [m] area of the annotation as a fraction of the picture's
    size: Size  # (h, w) of the resized picture
    masks: Tensor | None = None  # [m, h, w] bool
    orig_size: Size | None = None  # (height, width) before any transform
    scribble: Tensor | None = None  # [12, 2] (x, y) in pixels of the resized picture
    caption: str = ""
    image_id: int = 0
    iscrowd: Tensor | None = None  # [m] int64

    def __post_init__(self) -> None:
        people = len(self.labels)
        wanted = {"labels": (people,), "boxes": (people, 4), "keypoints": (people, 3 * self.num_keypoints), "area": (people,)}
        if self.masks is not None:
            wanted["masks"] = (people, *self.size)
        for name, shape in wanted.items():
            if (given := tuple(getattr(self, name).shape)) != shape:
                raise UsageError(f"{name} of a target with {people} labels has shape {given}; it must be {shape}.")

    @property
    def num_keypoints(self) -> int:
        """K."""
        return self.keypoints.shape[-1] // 3

    @classmethod
    def of(cls, target: Target | Mapping[str, Any]) -> Target:
        """Read a mapping with upstream's keys; what this class does not know is left out."""
        if isinstance(target, cls):
            return target
        given = {field.name: target[field.name] for field in dataclasses.fields(cls) if field.name in target}
        for name in {"size", "orig_size"} & given.keys():
            height, width = given[name]
            given[name] = (int(height), int(width))
        return cls(**given | ({"image_id": int(given["image_id"])} if "image_id" in given else {}))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Target:
        """The same target with its tensors on `device`."""
        return _moved(self, device, non_blocking)


@dataclass(frozen=True)
class TargetBatch:
    """The people of B pictures, padded to M a picture. Made on the host by `collate`; masks are those of the n real people, in order."""

    counts: tuple[int, ...]  # people of every picture, on the host
    labels: Tensor  # [B, M] int64, 0 where there is nobody
    boxes: Tensor  # [B, M, 4]
    points: Tensor  # [B, M, K, 2] (x, y)
    visible: Tensor  # [B, M, K] 0 or 1
    area: Tensor  # [B, M], 1 where there is nobody
    masks: Tensor | None  # [n, H, W] bool, False in the padding
    top_label: int  # the highest label, on the host; 0 without people

    @property
    def num_people(self) -> int:
        """n."""
        return sum(self.counts)

    @property
    def num_keypoints(self) -> int:
        """K."""
        return self.visible.shape[-1]

    @classmethod
    def collate(cls, targets: Sequence[Target | Mapping[str, Any]]) -> TargetBatch:
        """Pad the targets of a batch. The masks are left out unless every picture with people has them."""
        read = [Target.of(target) for target in targets]
        if not read:
            raise UsageError("the batch has no targets; give one per picture.")
        if len(points := {target.num_keypoints for target in read}) > 1:
            raise UsageError(f"the targets of one batch have {sorted(points)} keypoints; they must have the same number.")
        counts = tuple(len(target.labels) for target in read)
        empty = {"labels": 0, "boxes": 0.0, "area": 1.0, "keypoints": 0.0}
        padded = {name: _padded([getattr(target, name) for target in read], value) for name, value in empty.items()}
        keypoints, number = padded.pop("keypoints"), points.pop()
        has_masks = all(target.masks is not None for target in read if len(target.labels))
        return cls(
            counts=counts,
            **padded,
            points=keypoints[..., : 2 * number].unflatten(-1, (number, 2)),
            visible=keypoints[..., 2 * number :],
            masks=_padded_masks(read) if has_masks else None,
            top_label=int(padded["labels"].max()) if padded["labels"].numel() else 0,
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TargetBatch:
        """The same batch with its tensors on `device`."""
        return _moved(self, device, non_blocking)

    def pin_memory(self) -> TargetBatch:
        """The same batch in page-locked memory (a DataLoader calls this)."""
        pinned = {name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, **pinned)


def batch_size(sizes: Sequence[Size], divisor: int = MASK_DIVISOR) -> Size:
    """(H, W) of a batch of pictures of these (h, w): the largest sides, rounded up to multiples of `divisor`."""
    height, width = (math.ceil(max(size[side] for size in sizes) / divisor) * divisor for side in (0, 1))
    return height, width


def _moved(labels: Any, device: torch.device | str, non_blocking: bool) -> Any:
    moved = {name: value.to(device, non_blocking=non_blocking) for name, value in vars(labels).items() if isinstance(value, Tensor)}
    return dataclasses.replace(labels, **moved)


def _padded(rows: list[Tensor], value: float) -> Tensor:
    """[m_b, ...] of every picture -> [B, M, ...], `value` where there is nobody."""
    most = max(len(row) for row in rows)
    out = rows[0].new_full((len(rows), most, *rows[0].shape[1:]), value)
    for padded, row in zip(out, rows, strict=True):
        padded[: len(row)] = row
    return out


def _padded_masks(targets: list[Target]) -> Tensor:
    """Masks [n, H, W] of all people, False right of and below their picture."""
    size = batch_size([target.size for target in targets])
    people = [target for target in targets if len(target.labels)]
    out = torch.zeros(sum(len(target.labels) for target in people), *size, dtype=torch.bool, device=targets[0].labels.device)
    first = 0
    for target in people:
        height, width = target.size
        out[first : (first := first + len(target.labels)), :height, :width] = target.masks
    return out
