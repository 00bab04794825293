"""A folder in RefHuman's format held against what reads it: what is wrong, entry by entry. No torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from humar_bench.args import shown
from humar_bench.data.example import SCRIBBLE_POINTS, SCRIBBLES
from humar_bench.data.keypoints import NAMES
from humar_bench.data.refhuman import (
    LENGTHS,
    MOST_PIXELS,
    SPLITS,
    annotation_file,
    annotations_of,
    caption_of,
    decode_mask,
    is_labelled,
    numbers,
    read_annotations,
    read_picture,
)
from humar_bench.errors import UsageError

WRONG, LEFT_OUT, ODD = "wrong", "left out", "odd"  # cannot be read; is not trained on; is read, but should be looked at
NEAR = 1.0  # pixels that numbers may reach beyond the picture


@dataclass(frozen=True)
class Finding:
    """One sentence about one entry; `entry` is its id, None for the file."""

    split: str
    entry: Any
    kind: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.split}{'' if self.entry is None else f' {self.entry}'}: {self.kind}: {self.sentence}"


class FolderCheck:
    """The findings of a folder, one after the other; when all are read, what they come to. Raises UsageError for a folder without files."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.found: Counter[str] = Counter()
        self.entries: dict[str, int] = {}
        if not any(os.path.exists(annotation_file(self.folder, split)) for split in SPLITS):
            names = " nor ".join(annotation_file(self.folder, split).name for split in SPLITS)
            raise UsageError(f"{str(self.folder)[:300]} holds neither {names}; name the folder that holds them.")

    def __iter__(self) -> Iterator[Finding]:
        for split in SPLITS:
            for finding in self._check_split(split):
                self.found[finding.kind] += 1
                yield finding

    @property
    def is_wrong(self) -> bool:
        return self.found[WRONG] > 0

    @property
    def summary(self) -> str:
        """One sentence."""
        entries = " and ".join(f"{number} entries of {split}" for split, number in self.entries.items()) or "no entry"
        return f"{entries}; {', '.join(f'{self.found[kind]} {kind}' for kind in (WRONG, LEFT_OUT, ODD))}."

    def _check_split(self, split: str) -> Iterator[Finding]:
        if not os.path.exists(path := annotation_file(self.folder, split)):
            yield Finding(split, None, ODD, f"there is no {path.name}.")
            return
        try:
            content = read_annotations(self.folder, split)
        except UsageError as error:
            yield Finding(split, None, WRONG, str(error))
            return
        self.entries[split] = len(content["images"])
        yield from _check_ids(split, content)
        of_entry, pictures = annotations_of(content), _Pictures(self.folder)
        for image in content["images"]:
            for kind, sentence in _check_entry(image, of_entry[image["id"]], pictures):
                yield Finding(split, image["id"], kind, sentence)


class _Pictures:
    """Sizes of pictures by name, each file read once; a sentence where it cannot be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[int, int] | str] = {}

    def size(self, name: str) -> tuple[int, int] | str:
        if name not in self._known:
            try:
                self._known[name] = read_picture(self.folder, name).shape[:2]
            except UsageError as error:
                self._known[name] = str(error)
        return self._known[name]


def _check_ids(split: str, content: dict[str, Any]) -> Iterator[Finding]:
    entries = Counter(image["id"] for image in content["images"])
    for entry, times in entries.items():
        if times > 1:
            yield Finding(split, entry, WRONG, f"the id occurs {times} times; each entry needs its own.")
    for annotation in content["annotations"]:
        if annotation["image_id"] not in entries:
            yield Finding(split, annotation["image_id"], ODD, f"annotation {annotation.get('id')} belongs to it, and it is not there.")
    for key, times in Counter(annotation.get("id") for annotation in content["annotations"]).items():
        if not key:
            yield Finding(split, None, ODD, f"{times} annotations have the id {key}; COCO's evaluation needs numbers from 1 on.")
        elif times > 1:
            yield Finding(split, None, ODD, f"{times} annotations have the id {key}; each needs its own.")


def _check_entry(image: dict[str, Any], annotations: list[dict[str, Any]], pictures: _Pictures) -> Iterator[tuple[str, str]]:
    try:
        if "caption" not in image or not caption_of(image).strip():
            yield ODD, f"its caption is {shown(image['caption'])}, not a sentence." if "caption" in image else "it has no caption."
    except ValueError as error:
        yield WRONG, f"{error}."
    size = pictures.size(image["file_name"])
    if isinstance(size, str):
        yield WRONG, size
        size = (image.get("height"), image.get("width"))
    elif size != (said := (image.get("height"), image.get("width"))):
        yield ODD, f"its picture {image['file_name'][:100]} is {size[0]} x {size[1]} pixels and it says {' x '.join(map(shown, said))}."
    if len(annotations) != 1:
        yield LEFT_OUT if not annotations else ODD, f"it has {len(annotations)} annotations; it should have one."
    if not all(isinstance(side, int) and side > 0 for side in size) or size[0] * size[1] > MOST_PIXELS:
        return
    for annotation in annotations:
        for kind, sentence in _check_annotation(annotation, size):
            yield kind, sentence if len(annotations) == 1 else f"annotation {annotation.get('id')}: {sentence}"


def _check_annotation(annotation: dict[str, Any], size: tuple[int, int]) -> Iterator[tuple[str, str]]:
    if annotation.get("category_id", 1) != 1:
        yield ODD, f"category_id is {shown(annotation['category_id'])}; a person is 1."
    if annotation.get("iscrowd"):
        yield LEFT_OUT, "it is a crowd (iscrowd)."
    found: dict[str, np.ndarray] = {}
    for name in LENGTHS:
        try:
            found[name] = numbers(annotation, name)
        except ValueError as error:
            yield WRONG, f"{name} {error}."
    if "bbox" in found:
        yield from _check_box(found["bbox"], found.get("area"), size)
    if "keypoints" in found:
        yield from _check_keypoints(found["keypoints"].reshape(-1, 3), annotation, size)
    mask = None
    try:
        mask = decode_mask(annotation.get("segmentation"), size)
        if not mask.any():
            yield ODD, "its segmentation is empty: there is no mask."
    except ValueError as error:
        yield WRONG, f"its segmentation cannot be decoded: {error}."
    if "scribble" in found:
        yield from _check_scribble(found["scribble"].reshape(SCRIBBLES, SCRIBBLE_POINTS, 2), mask, size)


def _check_box(box: np.ndarray, area: np.ndarray | None, size: tuple[int, int]) -> Iterator[tuple[str, str]]:
    left, top, width, height = box.tolist()
    if min(width, height) <= 0 or left >= size[1] or top >= size[0] or left + width <= 0 or top + height <= 0:
        yield LEFT_OUT, f"its box {_list(box)} has nothing inside the picture."
    elif left < -NEAR or top < -NEAR or left + width > size[1] + NEAR or top + height > size[0] + NEAR:
        yield ODD, f"its box {_list(box)} reaches beyond the picture of {size[0]} x {size[1]}."
    if area is not None and not 0 < area[0] <= width * height * 1.05:
        yield ODD, f"area {area[0]:g} does not fit a box of {width:g} x {height:g}."


def _check_keypoints(keypoints: np.ndarray, annotation: dict[str, Any], size: tuple[int, int]) -> Iterator[tuple[str, str]]:
    x, y, visible = keypoints.T
    if not is_labelled(annotation):
        yield LEFT_OUT, "no keypoint is labelled."
    if not np.isin(visible, (0, 1, 2)).all():
        yield ODD, f"visibilities are {_list(np.unique(visible))}; they must be 0, 1 or 2."
    if (said := annotation.get("num_keypoints")) is not None and said != (labelled := int((visible > 0).sum())):
        yield ODD, f"num_keypoints is {shown(said)} and {labelled} are labelled."
    beyond = (visible > 0) & ((x < -NEAR) | (y < -NEAR) | (x > size[1] - 1 + NEAR) | (y > size[0] - 1 + NEAR))
    if beyond.any():
        yield ODD, f"labelled keypoints lie outside the picture: {', '.join(NAMES[index] for index in np.flatnonzero(beyond))}."


def _check_scribble(scribbles: np.ndarray, mask: np.ndarray | None, size: tuple[int, int]) -> Iterator[tuple[str, str]]:
    x, y = np.floor(scribbles[..., 0].clip(-NEAR, size[1])).astype(int), np.floor(scribbles[..., 1].clip(-NEAR, size[0])).astype(int)
    outside = (x < 0) | (y < 0) | (x >= size[1]) | (y >= size[0])
    if outside.any():
        yield ODD, f"{outside.sum()} of {outside.size} scribble points lie outside the picture."
    elif mask is not None and mask.any() and (missed := int((~mask[y, x]).sum())):
        yield ODD, f"{missed} of {outside.size} scribble points lie outside the mask."


def _list(values: np.ndarray) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"
