"""Procedural people drawn once and kept as plain arrays, which any number of runs then share: reading one takes a fraction of drawing it.

A set is a folder of `.npy` files, opened as maps of the files, and the sentences as JSON. Its name says what it is of; a set that was not
finished is never seen, because it is moved into place when it is whole. No torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from humar_bench.data.example import Example
from humar_bench.data.people import VERSION, ProceduralPeople
from humar_bench.errors import UsageError, one_line

CAPTIONS = "captions.json"
ARRAYS = ("pictures", "masks", "boxes", "keypoints", "area", "scribbles")


class RenderedPeople:
    """Number -> the same `Example` as of the `ProceduralPeople` it was drawn from, one person each. Raises UsageError."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self._arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
            self.captions = json.loads((self.folder / CAPTIONS).read_bytes())
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.folder} holds no drawn people ({one_line(error)}); remove it, and it is drawn anew.") from error

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = {name: np.array(array[index]) for name, array in self._arrays.items()}
        height, width = row["pictures"].shape[:2]
        mask = np.unpackbits(row["masks"], count=height * width).reshape(1, height, width).astype(bool)
        return Example(
            picture=row["pictures"], boxes=row["boxes"], keypoints=row["keypoints"], area=row["area"], masks=mask,
            scribbles=row["scribbles"], caption=self.captions[index], image_id=index, orig_size=(height, width),
        )


def rendered(people: ProceduralPeople, folder: str | Path, progress: Callable[[float], None] = lambda share: None) -> RenderedPeople:
    """The set of `people` below `folder`, drawn now where it is not there yet; of two that draw at once, one is kept.

    A longer set that is there serves too, since a picture depends on its number and not on the length. Raises UsageError.
    """
    folder, stem = Path(folder), _stem(people)
    if kept := [each for each in folder.glob(f"{stem}-n*") if _length(each) >= people.length]:
        return _First(RenderedPeople(min(kept, key=_length)), people.length)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{stem}.{os.getpid()}"
        part.mkdir(exist_ok=True)
        try:
            _draw(people, part, progress)
            with contextlib.suppress(OSError):  # somebody else was first
                os.replace(part, folder / f"{stem}-n{people.length}")
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}; make room or name another folder.") from error
    return RenderedPeople(folder / f"{stem}-n{people.length}")


class _First(RenderedPeople):
    """The first pictures of a set."""

    def __init__(self, whole: RenderedPeople, length: int) -> None:
        self.folder, self._arrays, self.captions = whole.folder, whole._arrays, whole.captions[:length]


def _stem(people: ProceduralPeople) -> str:
    return f"people-v{VERSION}-{people.split}-level{people.level}-seed{people.seed}-{people.height}x{people.width}"


def _length(folder: Path) -> int:
    number = folder.name.rpartition("-n")[2]
    return int(number) if number.isdigit() else 0


def _draw(people: ProceduralPeople, folder: Path, progress: Callable[[float], None]) -> None:
    """Write the arrays picture by picture, so that memory does not grow with their number."""
    arrays, captions, total = {}, [], len(people)
    for index in range(total):
        example = people[index]
        row = {name: getattr(example, name) for name in ("boxes", "keypoints", "area", "scribbles")}
        row |= {"pictures": example.picture, "masks": np.packbits(example.masks[0])}
        if not arrays:
            arrays = {
                name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", row[name].dtype, (total, *row[name].shape)) for name in ARRAYS
            }
        for name, value in row.items():
            arrays[name][index] = value
        captions.append(example.caption)
        progress((index + 1) / total)
    for array in arrays.values():
        array.flush()
    (folder / CAPTIONS).write_text(json.dumps(captions), encoding="utf-8")
