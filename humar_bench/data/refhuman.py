"""RefHuman: one JSON file a split in COCO's layout, and a folder of pictures.

Source: Miao et al., "Referring Human Pose and Mask Estimation in the Wild" (UniPHD), and how its code reads them.

An entry of `images` is one (picture, person, sentence): its `file_name` repeats, its `caption` is the sentence, and one annotation
belongs to it, with 5 scribbles of 12 points beside COCO's fields.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from humar_bench.data.example import SCRIBBLE_POINTS, SCRIBBLES, Example
from humar_bench.data.keypoints import NAMES
from humar_bench.errors import UsageError, one_line

SPLITS = ("train", "val")
PICTURES = "images"
NO_CAPTION = "ssssss"  # what upstream reads where an entry has none


class RefHuman:
    """Number -> `Example` of one split of a folder. Training leaves out entries without a labelled keypoint. Raises UsageError."""

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder, self.split = Path(folder), split
        content = read_annotations(self.folder, split)
        of_entry = annotations_of(content)
        self.entries = [(image, of_entry[image["id"]]) for image in content["images"]]
        if split == "train":
            self.entries = [each for each in self.entries if any(is_labelled(annotation) for annotation in each[1])]
        if not self.entries:
            raise UsageError(f"{annotation_file(self.folder, split)} has no entry that can be used; `humar-bench data check` says why.")

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Example:
        """Entry number `index`. Raises UsageError where its picture or its numbers cannot be read."""
        image, annotations = self.entries[index]
        picture = read_picture(self.folder, image["file_name"])
        try:
            return to_example(image, annotations, picture)
        except (KeyError, TypeError, ValueError) as error:
            where = f"entry {image['id']} of {annotation_file(self.folder, self.split)}"
            raise UsageError(f"{where} cannot be read: {one_line(error)}; `humar-bench data check` lists what is wrong.") from error


def annotation_file(folder: Path, split: str) -> Path:
    """Where the entries of a split are. Raises UsageError for a split RefHuman does not have."""
    if split not in SPLITS:
        raise UsageError(f"the split is {split!r}; RefHuman has {' and '.join(SPLITS)}.")
    return folder / f"RefHuman_{split}.json"


def read_annotations(folder: Path, split: str) -> dict[str, Any]:
    """The content of a split's file, whose `images` and `annotations` are lists of objects with ids. Raises UsageError."""
    path = annotation_file(folder, split)
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; give the folder that holds it and {PICTURES}/.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}.") from error
    for name, needed in (("images", ("id", "file_name")), ("annotations", ("image_id",))):
        rows = content.get(name) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise UsageError(f"{path} has no list {name!r}; it must be in COCO's layout.")
        for number, row in enumerate(rows):
            if not isinstance(row, dict) or any(key not in row for key in needed):
                raise UsageError(f"{path}: number {number} of {name!r} is not an object with {' and '.join(needed)}.")
    return content


def annotations_of(content: Mapping[str, Any]) -> defaultdict[Any, list[dict[str, Any]]]:
    """Entry id -> its annotations."""
    found: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        found[annotation["image_id"]].append(annotation)
    return found


def read_picture(folder: Path, name: str) -> np.ndarray:
    """uint8 [H, W, 3], whatever the file's colours. Raises UsageError."""
    from PIL import Image

    path = folder / PICTURES / name
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UsageError(f"the picture {path} cannot be read: {error}.") from error


def to_example(image: Mapping[str, Any], annotations: list[dict[str, Any]], picture: np.ndarray) -> Example:
    """An entry with its annotations; those that are crowds, have no labelled keypoint or lie outside the picture are left out.

    Raises KeyError, TypeError or ValueError where a field is missing or is not what it has to be.
    """
    height, width = picture.shape[:2]
    people = [each for each in annotations if not each.get("iscrowd") and is_labelled(each)]
    boxes = np.array([each["bbox"] for each in people], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes = boxes.clip(0, np.array([width, height, width, height], np.float32))
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    people = [each for each, keep in zip(people, kept, strict=True) if keep]
    return Example(
        picture=picture,
        boxes=boxes[kept],
        keypoints=np.array([each["keypoints"] for each in people], np.float32).reshape(-1, len(NAMES), 3),
        area=np.array([each["area"] for each in people], np.float32),
        masks=np.array([decode_mask(each.get("segmentation"), (height, width)) for each in people], bool).reshape(-1, height, width),
        scribbles=_scribbles(people or annotations, (height, width)),
        caption=image.get("caption", NO_CAPTION),
        image_id=image["id"],
        orig_size=(height, width),
    )


def decode_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Polygons or run lengths, COCO's -> bool [H, W]; nothing gives an empty mask. Raises ValueError for what is neither."""
    from faster_coco_eval.core import mask as coco

    if not segmentation:
        return np.zeros(size, bool)
    try:
        if isinstance(segmentation, dict):
            runs = segmentation if isinstance(segmentation["counts"], (str, bytes)) else coco.frPyObjects(segmentation, *size)
            return coco.decode(runs).astype(bool).reshape(size)
        polygons = [np.array(polygon, np.float64).tolist() for polygon in segmentation]
        if any(len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all() for polygon in polygons):
            raise ValueError("a polygon needs three corners or more, each of two finite numbers")
        return coco.decode(coco.merge(coco.frPyObjects(polygons, *size))).astype(bool)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"it is neither polygons nor run lengths ({one_line(error)})") from error


def is_labelled(annotation: Mapping[str, Any]) -> bool:
    """Whether at least one keypoint is labelled."""
    keypoints = annotation.get("keypoints") or ()
    return bool(annotation.get("num_keypoints", 1)) and any(visible > 0 for visible in keypoints[2::3])


def _scribbles(annotations: list[dict[str, Any]], size: tuple[int, int]) -> np.ndarray:
    """[5, 12, 2] of the first annotation, nested or flat; the picture's middle where there is no annotation at all."""
    if not annotations:
        return np.full((SCRIBBLES, SCRIBBLE_POINTS, 2), [size[1] / 2, size[0] / 2], np.float32)
    return np.array(annotations[0]["scribble"], np.float32).reshape(SCRIBBLES, SCRIBBLE_POINTS, 2)
