"""RefHuman: one JSON file a split in COCO's layout, and a folder of pictures.

Source: Miao et al., "Referring Human Pose and Mask Estimation in the Wild" (UniPHD), and how its code reads them.

An entry of `images` is one (picture, person, sentence): its `file_name` repeats, its `caption` is the sentence, and one annotation
belongs to it, with 5 scribbles of 12 points beside COCO's fields.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from humar_bench.args import shown
from humar_bench.data.example import SCRIBBLE_POINTS, SCRIBBLES, Example
from humar_bench.data.keypoints import NAMES
from humar_bench.errors import UsageError, one_line
from humar_bench.reading import open_regular, parse_json, read_bytes

SPLITS = ("train", "val")
PICTURES = "images"
NO_CAPTION = "ssssss"  # what upstream reads where an entry has none
LENGTHS = {"bbox": 4, "area": 1, "keypoints": 3 * len(NAMES), "scribble": SCRIBBLES * SCRIBBLE_POINTS * 2}
# Bounds of what is read; each is far beyond any photo and its annotation
MOST_ANNOTATIONS = 2**30  # bytes of a split's file
MOST_PIXELS = 2**25
FARTHEST = 1e6  # pixels from the origin
MOST_NUMBER = 1e9  # of boxes, areas, keypoints and scribbles
MOST_OUTLINE = 1e6  # pixels along one polygon
MOST_CAPTION = 10_000  # letters
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # those that PIL reads by itself; PostScript would be run
_NEEDED = {  # list -> keys that each of its objects has, and what they can be
    "images": {"id": (int, str), "file_name": (str,)}, "annotations": {"image_id": (int, str)},
}


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
        except (TypeError, ValueError) as error:
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
        content = parse_json(read_bytes(path, MOST_ANNOTATIONS), MOST_ANNOTATIONS, finite=False)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; give the folder that holds it and {PICTURES}/.") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON that can be read: {error}.") from error
    for name, needed in _NEEDED.items():
        rows = content.get(name) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise UsageError(f"{path} has no list {name!r}; it must be in COCO's layout.")
        for number, row in enumerate(rows):
            if not isinstance(row, dict) or any(key not in row for key in needed):
                raise UsageError(f"{path}: number {number} of {name!r} is not an object with {' and '.join(needed)}.")
            for key, kinds in ({"id": (int, str, type(None))} | needed).items():
                if key in row and (not isinstance(row[key], kinds) or isinstance(row[key], bool)):
                    raise UsageError(f"{path}: {key} of number {number} of {name!r} is {shown(row[key])}; it must be "
                                     f"{'text' if int not in kinds else 'a whole number or text'}.")
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
        with warnings.catch_warnings(), open_regular(path) as file:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound here is lower
            Image.init()
            with Image.open(file, formats=[each for each in FORMATS if each in Image.OPEN]) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise ValueError(f"it has {picture.width} x {picture.height} pixels; at most {MOST_PIXELS:,} are read")
                return np.array(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, Image.UnidentifiedImageError)
        said = "cannot identify image file" if unknown else getattr(error, "strerror", None) or str(error).rstrip(".")
        where = str(path) if len(str(path)) <= 300 else f"{str(path)[:297]}..."
        raise UsageError(f"the picture {where} cannot be read: {said}.") from error


def to_example(image: Mapping[str, Any], annotations: list[dict[str, Any]], picture: np.ndarray) -> Example:
    """An entry with its annotations; those that are crowds, have no labelled keypoint or lie outside the picture are left out.

    Raises TypeError or ValueError where a field is missing or is not what it has to be.
    """
    height, width = picture.shape[:2]
    people = [each for each in annotations if not each.get("iscrowd") and is_labelled(each)]
    boxes = _stacked(people, "bbox").reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes = boxes.clip(0, np.array([width, height, width, height], np.float32))
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    people = [each for each, keep in zip(people, kept, strict=True) if keep]
    return Example(
        picture=picture,
        boxes=boxes[kept],
        keypoints=_stacked(people, "keypoints").reshape(-1, len(NAMES), 3),
        area=_stacked(people, "area").reshape(-1),
        masks=np.array([decode_mask(each.get("segmentation"), (height, width)) for each in people], bool).reshape(-1, height, width),
        scribbles=_scribbles(people or annotations, (height, width)),
        caption=caption_of(image),
        image_id=image["id"],
        orig_size=(height, width),
    )


def caption_of(image: Mapping[str, Any]) -> str:
    """The sentence of an entry. Raises ValueError for what is none."""
    caption = image.get("caption", NO_CAPTION)
    if not isinstance(caption, str):
        raise ValueError(f"its caption is {shown(caption)}, not a sentence")
    if len(caption) > MOST_CAPTION or any("\ud800" <= letter <= "\udfff" for letter in caption):
        raise ValueError(f"its caption is {shown(caption)}; it must be at most {MOST_CAPTION:,} letters of Unicode")
    return caption


def numbers(annotation: Mapping[str, Any], name: str) -> np.ndarray:
    """float64 [`LENGTHS[name]`]: numbers of an annotation, nested or flat. Raises ValueError, whose sentence goes on after the name."""
    if annotation.get(name) is None:
        raise ValueError("is missing")
    try:
        array = np.array(annotation[name]).ravel()
    except ValueError:
        array = None
    if array is None or array.size and array.dtype.kind not in "iuf":
        one = f"is {shown(annotation[name])}; it must be a number"
        raise ValueError(one if LENGTHS[name] == 1 else "is not a list of numbers of one shape")
    if len(array) != LENGTHS[name]:
        raise ValueError(f"has {len(array)} numbers; it needs {LENGTHS[name]}")
    if not np.isfinite(array).all() or np.abs(array.astype(np.float64)).max() > MOST_NUMBER:
        raise ValueError(f"has numbers that are not finite or beyond {MOST_NUMBER:,.0f}")
    return array.astype(np.float64)


def _stacked(annotations: list[dict[str, Any]], name: str) -> np.ndarray:
    """float32 [m, ...] of the annotations."""
    try:
        return np.array([numbers(each, name) for each in annotations], np.float32)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def decode_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Polygons or run lengths, COCO's -> bool [H, W]; nothing gives an empty mask. Raises ValueError for what is neither."""
    from faster_coco_eval.core import mask as coco

    if not segmentation:
        return np.zeros(size, bool)
    try:
        if isinstance(segmentation, dict):
            if list(segmentation["size"]) != list(size):
                raise ValueError(f"it is of {shown(segmentation['size'])} and the picture has {size[0]} x {size[1]} pixels")
            runs = segmentation if isinstance(segmentation["counts"], (str, bytes)) else coco.frPyObjects(segmentation, *size)
            return coco.decode(runs).astype(bool).reshape(size)
        polygons = [_polygon(each) for each in segmentation]
        return coco.decode(coco.merge(coco.frPyObjects(polygons, *size))).astype(bool)
    except (KeyError, TypeError, RuntimeError, MemoryError) as error:
        raise ValueError(f"it is neither polygons nor run lengths ({one_line(error)})") from error


def _polygon(corners: Any) -> list[float]:
    """[x, y, x, y, ...]. Raises TypeError, ValueError; for one that is too long too, since every pixel along it takes memory."""
    array = np.array(corners, np.float64)
    if array.ndim != 1 or len(array) < 6 or len(array) % 2 or not np.isfinite(array).all():
        raise ValueError("a polygon needs three corners or more, each of two finite numbers")
    around = np.abs(np.diff(array.reshape(-1, 2), axis=0, append=array[None, :2])).sum()
    if np.abs(array).max() > FARTHEST or around > MOST_OUTLINE:
        raise ValueError(f"a polygon lies more than {FARTHEST:,.0f} pixels away or is more than {MOST_OUTLINE:,.0f} long")
    return array.tolist()


def is_labelled(annotation: Mapping[str, Any]) -> bool:
    """Whether at least one keypoint is labelled; true for what are no numbers, an error where they are read."""
    keypoints = annotation.get("keypoints") or ()
    try:
        return bool(annotation.get("num_keypoints", 1)) and any(not visible <= 0 for visible in keypoints[2::3])
    except (TypeError, KeyError):
        return True


def _scribbles(annotations: list[dict[str, Any]], size: tuple[int, int]) -> np.ndarray:
    """[5, 12, 2] of the first annotation, nested or flat; the picture's middle where there is no annotation at all."""
    if not annotations:
        return np.full((SCRIBBLES, SCRIBBLE_POINTS, 2), [size[1] / 2, size[0] / 2], np.float32)
    return _stacked(annotations[:1], "scribble").reshape(SCRIBBLES, SCRIBBLE_POINTS, 2)
