"""Flip, crop, resize and normalise an example: RefHuman's training and evaluation, as UniPHD's and HuMAR's code do it.

Upstream's mistakes are not kept: a regenerated scribble is (x, y), words that only contain "left" or "right" stay, a crop cuts masks and
scribbles too. Kept, because published models were trained with it: a keypoint that a crop cuts off is moved to its border and stays
visible (`keep_cut`), and the area becomes that of the cropped box.

Pictures are resized by Pillow's bilinear filter, which is bit-equal to upstream's transform; torch's filter for bytes takes a third of the
time and is off by one of 255 in some pixels (`benchmarks/people.py`). Sizes are (height, width). Shapes: m people.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from humar_bench.args import Size
from humar_bench.data.draws import Draws
from humar_bench.data.example import SCRIBBLES, Example
from humar_bench.data.keypoints import MIRROR
from humar_bench.data.prompts import draw_scribbles
from humar_bench.data.targets import Target

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
SHORTER_SIDES = (360, 392, 416, 480, 512, 544, 576, 608, 640)
SHORTER_BEFORE_CROP = (400, 500, 600)
CROP_SIDES = (384, 600)
LONGEST = 640
REDRAW_ABOVE = 100  # pixels of the mask from which on a scribble outside it is drawn anew
# "left" and "right" as words, also in leftmost, right-hand, leftward; not in bright or leftover.
_SIDES = re.compile(r"\b(left|right)(?=(?:most|ward|wards|hand|handed|side)?\b)", re.IGNORECASE)


def for_evaluation(example: Example, longest: int = LONGEST) -> tuple[Tensor, Target]:
    """Resize to a longest side of `longest` (the shorter one at most that too) -> picture [3, h, w], its target with scribble number 0."""
    return to_target(resize(example, fitting(example.size, longest, longest)), 0)


def for_training(example: Example, draws: Draws, *, keep_cut: bool = True) -> tuple[Tensor, Target] | None:
    """Chance flip, crop and size -> picture [3, h, w] and its target with one of the scribbles; None when nobody is in it."""
    if draws.chance(0.5):
        example = flip(example)
    if draws.chance(0.5):
        shorter = draws.pick(SHORTER_BEFORE_CROP)
        example = resize(example, fitting(example.size, shorter, None))
        low, high = CROP_SIDES
        height, width = (draws.whole(low, min(side, high)) for side in example.size)
        top, left = (draws.whole(0, side - cut) for side, cut in zip(example.size, (height, width), strict=True))
        example = crop(example, top, left, (height, width), keep_cut=keep_cut)
    if not len(example.boxes):
        return None
    example = resize(example, fitting(example.size, draws.pick(SHORTER_SIDES), LONGEST))
    number = draws.whole(0, SCRIBBLES - 1)
    return to_target(keep_inside(example, draws, number), number)


def flip(example: Example) -> Example:
    """Mirror left and right: pixels, coordinates, the sides of the body and of the sentence."""
    width = example.size[1]
    boxes, keypoints, scribbles = example.boxes.copy(), example.keypoints[:, list(MIRROR)], example.scribbles.copy()
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    keypoints[..., 0] = width - 1 - keypoints[..., 0]
    scribbles[..., 0] = width - 1 - scribbles[..., 0]
    return dataclasses.replace(
        example, picture=example.picture[:, ::-1], masks=example.masks[..., ::-1], boxes=boxes, keypoints=keypoints, scribbles=scribbles,
        caption=mirrored(example.caption),
    )


def mirrored(caption: str) -> str:
    """The sentence with left and right swapped where they are words or begin one that names a side; capitals stay."""

    def swap(match: re.Match) -> str:
        word = match[0]
        other = "right" if word.lower() == "left" else "left"
        return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

    return _SIDES.sub(swap, caption)


def crop(example: Example, top: int, left: int, size: Size, *, keep_cut: bool = True) -> Example:
    """The part of this size from (top, left) on; people whose box is outside are gone.

    Keypoints outside move to the border and stay visible, as upstream has it; with `keep_cut` off they become unlabelled.
    """
    height, width = size
    limits = np.array([width, height], np.float32)
    boxes = (example.boxes.reshape(-1, 2, 2) - np.array([left, top], np.float32)).clip(0, limits)
    keypoints, scribbles = example.keypoints.copy(), example.scribbles - np.array([left, top], np.float32)
    points = keypoints[..., :2] - np.array([left, top], np.float32)
    keypoints[..., :2] = points.clip(0, limits)
    if not keep_cut:
        cut = ((points < -0.5) | (points > limits - 0.5)).any(-1)
        keypoints[cut] = 0
    kept = (boxes[:, 1] > boxes[:, 0]).all(-1)
    window = slice(top, top + height), slice(left, left + width)
    return dataclasses.replace(
        example, picture=example.picture[window], masks=example.masks[kept][:, *window], boxes=boxes.reshape(-1, 4)[kept],
        keypoints=keypoints[kept], area=(boxes[:, 1] - boxes[:, 0]).prod(-1)[kept], scribbles=scribbles,
    )


def fitting(size: Size, shorter: int, longest: int | None) -> Size:
    """The size whose shorter side is `shorter`, or less where the longer one would pass `longest`; that one is cut to a whole number."""
    low, high = min(size), max(size)
    if longest is not None and high / low * shorter > longest:
        shorter = round(longest * low / high)
    longer = int(shorter * high / low)
    return (shorter, longer) if size[0] <= size[1] else (longer, shorter)


def resize(example: Example, size: Size) -> Example:
    """Pictures by Pillow's bilinear filter, masks by nearest pixels, coordinates and areas in proportion."""
    from PIL import Image

    if size == example.size:
        return example
    height, width = size
    picture = Image.fromarray(np.ascontiguousarray(example.picture)).resize((width, height), Image.Resampling.BILINEAR)
    across, down = width / example.size[1], height / example.size[0]
    ratios = np.array([across, down], np.float32)
    keypoints = example.keypoints.copy()
    keypoints[..., :2] *= ratios
    masks = torch.from_numpy(np.ascontiguousarray(example.masks))[None].to(torch.uint8)
    masks = F.interpolate(masks, size=size, mode="nearest")[0].bool().numpy() if masks.numel() else np.zeros((0, *size), bool)
    return dataclasses.replace(
        example, picture=np.array(picture), masks=masks, boxes=example.boxes * np.tile(ratios, 2), keypoints=keypoints,
        area=example.area * np.float32(across * down), scribbles=example.scribbles * ratios,
    )


def keep_inside(example: Example, draws: Draws, number: int) -> Example:
    """Draw scribble `number` anew where a point of it lies outside the first person's mask, and the mask is not tiny."""
    if not len(example.masks) or np.count_nonzero(mask := example.masks[0]) <= REDRAW_ABOVE:
        return example
    (x, y), (height, width) = np.floor(example.scribbles[number]).astype(int).T, example.size
    if ((x >= 0) & (x < width) & (y >= 0) & (y < height)).all() and mask[y, x].all():
        return example
    (scribble,), (within,) = draw_scribbles(draws, mask, 1)
    if not within:
        return example
    scribbles = example.scribbles.copy()
    scribbles[number] = scribble
    return dataclasses.replace(example, scribbles=scribbles)


def to_target(example: Example, scribble: int = 0) -> tuple[Tensor, Target]:
    """Normalised picture [3, h, w] float32 and fractions of it, the scribble in its whole pixels."""
    height, width = example.size
    bytes_ = torch.from_numpy(np.ascontiguousarray(example.picture)).permute(2, 0, 1)
    picture = bytes_.to(torch.float32, memory_format=torch.contiguous_format)
    picture.div_(255).sub_(torch.tensor(MEAN)[:, None, None]).div_(torch.tensor(STD)[:, None, None])
    boxes, keypoints = torch.from_numpy(example.boxes), torch.from_numpy(example.keypoints)
    whole = torch.tensor([width, height], dtype=torch.float32)
    low, high = boxes[:, :2], boxes[:, 2:]
    points = torch.from_numpy(example.scribbles[scribble])
    target = Target(
        labels=torch.ones(len(boxes), dtype=torch.int64),
        boxes=torch.cat([(low + high) / 2, high - low], 1) / whole.repeat(2),
        keypoints=torch.cat([(keypoints[..., :2] / whole).flatten(1), (keypoints[..., 2] > 0).float()], 1),
        area=torch.from_numpy(example.area) / (height * width),
        masks=torch.from_numpy(np.ascontiguousarray(example.masks)),
        size=(height, width),
        orig_size=example.orig_size,
        scribble=torch.minimum(points.clamp(min=0), whole - 1).floor(),
        caption=example.caption,
        image_id=example.image_id,
        iscrowd=torch.zeros(len(boxes), dtype=torch.int64),
    )
    return picture, target
