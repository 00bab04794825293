"""Procedural people drawn once and kept as plain arrays, which any number of runs then share: reading one takes a fraction of drawing it.

A set is a folder of `.npy` files, opened as maps of the files, and the sentences as JSON. Its name says what it is of; a set that was not
finished is never seen, because it is moved into place when it is whole. Files are read with bounds, shapes and number types have to fit
each other, and a set that was found has some of its pictures drawn again, which must be the same. No torch.

Shapes: n pictures of (H, W), K keypoints.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from humar_bench.data.example import SCRIBBLE_POINTS, SCRIBBLES, Example
from humar_bench.data.keypoints import NAMES
from humar_bench.data.people import VERSION, ProceduralPeople
from humar_bench.errors import UsageError
from humar_bench.reading import open_regular, parse_json, read_bytes

CAPTIONS = "captions.json"
ARRAYS = {  # name -> number type and what a picture has of it; None is any length
    "pictures": ("uint8", (None, None, 3)), "masks": ("uint8", (None,)), "boxes": ("float32", (1, 4)),
    "keypoints": ("float32", (1, len(NAMES), 3)), "area": ("float32", (1,)), "scribbles": ("float32", (SCRIBBLES, SCRIBBLE_POINTS, 2)),
}
MOST_SIDE = 4096  # of a picture
AGAIN = 4  # pictures of a set that was found are drawn again: the first, the last and some between


class RenderedPeople:
    """Number -> the same `Example` as of the `ProceduralPeople` it was drawn from, one person each. Raises UsageError."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self._arrays = {name: _mapped(self.folder / f"{name}.npy", *wanted) for name, wanted in ARRAYS.items()}
            self.captions = _captions(self.folder / CAPTIONS)
            _refuse_misfits(self._arrays, self.captions)
        except (OSError, ValueError) as error:
            said = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            raise UsageError(f"{self.folder} holds no drawn people ({said.rstrip('.')}); remove it, and it is drawn anew.") from error

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
        found = RenderedPeople(min(kept, key=_length))
        _refuse_others(found, people)
        return _First(found, people.length)
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


def _mapped(path: Path, kind: str, row: tuple[int | None, ...]) -> np.ndarray:
    """A map of a regular `.npy` file of this number type, `row` the shape of each picture's part. Raises OSError, ValueError."""
    with open_regular(path) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{path.name} has the format {version}, and sets are written as (1, 0)")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        fits = len(shape) == 1 + len(row) and all(wanted in (None, side) for wanted, side in zip(row, shape[1:], strict=True))
        if fortran or dtype != np.dtype(kind) or not fits:
            raise ValueError(f"{path.name} holds {dtype} of shape {shape}")
        return np.memmap(file, dtype=dtype, mode="r", offset=file.tell(), shape=shape)  # refuses a file that is shorter


def _captions(path: Path) -> list[str]:
    found = parse_json(read_bytes(path))
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError(f"{path.name} is no list of sentences")
    return found


def _refuse_misfits(arrays: dict[str, np.ndarray], captions: list[str]) -> None:
    """Raises ValueError where files are not of one set."""
    lengths = {len(captions), *map(len, arrays.values())}
    if len(lengths) > 1:
        raise ValueError(f"its files are of {' and '.join(map(str, sorted(lengths)))} pictures")
    height, width = arrays["pictures"].shape[1:3]
    if not (0 < height <= MOST_SIDE and 0 < width <= MOST_SIDE) or arrays["masks"].shape[1] != (height * width + 7) // 8:
        raise ValueError(f"its pictures are {height}x{width} and a mask has {arrays['masks'].shape[1]} bytes")


def _refuse_others(found: RenderedPeople, people: ProceduralPeople) -> None:
    """Raises UsageError for a set that is not of the people its name says."""
    for index in sorted({round(each) for each in np.linspace(0, people.length - 1, AGAIN)}):
        drawn = vars(people[index])
        kept = vars(found[index]) if index < len(found) else {}
        if kept.keys() != drawn.keys() or not all(np.array_equal(kept[name], value) for name, value in drawn.items()):
            raise UsageError(f"{found.folder} is not what its name says: picture {index} is another; remove it, and it is drawn anew.")


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
