"""Procedural people written in RefHuman's format: `RefHuman_train.json`, `RefHuman_val.json`, `images/`.

What is read back (`refhuman.RefHuman`) is the example that was written, to the last pixel of picture and mask: pictures are PNG, masks
are polygons around rectangles of whole pixels, which hold holes and parts that lie apart too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from humar_bench.data.example import Example
from humar_bench.data.people import ProceduralPeople
from humar_bench.data.refhuman import PICTURES, annotation_file
from humar_bench.errors import UsageError

CATEGORIES = [{"id": 1, "name": "person", "supercategory": "person"}]
MOST_PICTURES = 10_000_000
ROUNDED = 2  # digits of coordinates that are not whole; a 64th of a pixel is finer than an annotator


def export_people(
    folder: str | Path, sets: Mapping[str, ProceduralPeople], progress: Callable[[float, str], None] | None = None
) -> list[Path]:
    """Write the sets, by split, and return the annotation files; `progress` hears the share that is done (0 to 1) and the split.

    Raises UsageError where the folder cannot be written or holds such files already, or any picture.
    """
    folder = Path(folder)
    files = {split: annotation_file(folder, split) for split in sets}
    for people in sets.values():
        if len(people) > MOST_PICTURES:
            raise UsageError(f"{len(people)} pictures were asked for; at most {MOST_PICTURES:,} are written.")
    try:
        if taken := [path for path in (*files.values(), folder / PICTURES) if os.path.lexists(path) and not _is_empty_folder(path)]:
            raise UsageError(f"{taken[0]} exists already; name another folder or remove it.")
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
        for split, people in sets.items():
            content = _content(folder, split, people, lambda done, split=split: progress and progress(done / len(sets[split]), split))
            part = files[split].with_suffix(".part")
            part.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
            os.replace(part, files[split])
    except OSError as error:
        where = error.filename or folder
        raise UsageError(f"{where} cannot be written: {error.strerror or error}; make room or name another folder.") from error
    return list(files.values())


def _is_empty_folder(path: Path) -> bool:
    return os.path.isdir(path) and not os.path.islink(path) and not os.listdir(path)


def _content(folder: Path, split: str, people: ProceduralPeople, progress: Callable[[int], Any]) -> dict[str, Any]:
    """Write the pictures of a split; return what its annotation file holds."""
    from PIL import Image

    images, annotations = [], []
    for index in range(len(people)):
        example = people[index]
        name = f"{split}_{index:06d}.png"
        Image.fromarray(example.picture).save(folder / PICTURES / name)
        height, width = example.size
        images.append({"id": index, "file_name": name, "height": height, "width": width, "caption": example.caption})
        annotations.append(_annotation(example, index))
        progress(index + 1)
    about = f"Procedural people of humar-bench, level {people.level}, seed {people.seed}, {split}: every person in them is made up."
    return {"info": {"description": about}, "licenses": [], "categories": CATEGORIES, "images": images, "annotations": annotations}


def _annotation(example: Example, index: int) -> dict[str, Any]:
    """One person in COCO's fields; ids start at 1, because pycocotools takes an annotation 0 for none."""
    (left, top, right, bottom), keypoints = example.boxes[0].tolist(), example.keypoints[0]
    values = [round(value, ROUNDED) for x, y, seen in keypoints.tolist() for value in (x, y, seen)]
    values[2::3] = [int(seen) for seen in values[2::3]]
    return {
        "id": index + 1, "image_id": index, "category_id": 1, "iscrowd": 0, "bbox": [left, top, right - left, bottom - top],
        "area": float(example.area[0]), "num_keypoints": int(np.count_nonzero(keypoints[:, 2])), "keypoints": values,
        "segmentation": rectangles(example.masks[0]), "scribble": example.scribbles.astype(int).tolist(),
    }


def rectangles(mask: np.ndarray) -> list[list[int]]:
    """The mask [H, W] as polygons that do not overlap: runs of pixels in a row, joined downwards while they stay the same."""
    steps = np.diff(np.pad(mask.astype(np.int8), ((0, 1), (1, 1))), axis=1)
    open_runs: dict[tuple[int, int], int] = {}  # (left, right) -> first row
    out = []
    for row, step in enumerate(steps):  # the row below the last one is empty and closes all
        runs = set(zip(np.flatnonzero(step == 1).tolist(), np.flatnonzero(step == -1).tolist(), strict=True))
        for left, right in [run for run in open_runs if run not in runs]:
            top = open_runs.pop((left, right))
            out.append([left, top, right, top, right, row, left, row])
        for run in runs:
            open_runs.setdefault(run, row)
    return sorted(out, key=lambda corners: (corners[1], corners[0]))
