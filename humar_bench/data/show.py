"""A contact sheet: pictures with box, keypoints and scribble, the sentence below each. No torch."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from humar_bench.args import LIMBS, Size, shown
from humar_bench.data.example import Example
from humar_bench.data.keypoints import NAMES
from humar_bench.data.scenes import LEVELS
from humar_bench.data.sources import open_source
from humar_bench.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

ALL_LEVELS = tuple(f"procedural:{level}" for level in range(len(LEVELS)))
CELL, GAP, LINES, FONT = 256, 12, 3, 13  # pixels: side of a picture, between pictures; lines of text, height of its letters
MOST_PICTURES = 600
LEFT, RIGHT, MIDDLE = (0, 158, 115), (213, 94, 0), (240, 228, 66)  # of Okabe and Ito's colours, which colour-blind readers tell apart
SCRIBBLE, OUTLINE, BOX, PAPER, INK = (204, 121, 167), (86, 180, 233), (255, 255, 255), (255, 255, 255), (0, 0, 0)


def examples_of(data: str | None, split: str, *, seed: int, first: int, number: int, size: Size) -> list[Example]:
    """`number` examples from number `first` on; of every level where `data` is None. Raises UsageError."""
    if first < 0 or number < 1:
        raise UsageError(f"the pictures from {first} on, {number} of them, were asked for; the first is 0 and at least one is needed.")
    if number > MOST_PICTURES:
        raise UsageError(f"{shown(number)} pictures were asked for; a sheet has at most {MOST_PICTURES:,} of each level.")
    sources = [open_source(each, split, seed=seed, length=first + number, size=size) for each in ([data] if data else ALL_LEVELS)]
    found = [source[index] for source in sources for index in range(first, min(first + number, len(source)))]
    if not found:
        raise UsageError(f"{data} has {len(sources[0])} pictures in {split}; the first asked for is number {first}.")
    return found


def as_png(sheet: Image) -> bytes:
    """The bytes of a PNG file."""
    content = io.BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()


def contact_sheet(examples: Sequence[Example], columns: int = 6, *, labels: bool = True) -> Image:
    """The examples row by row. With `labels`, what they are labelled with: left limbs green, right orange; hidden keypoints hollow."""
    from PIL import Image, ImageDraw, ImageFont

    columns = min(columns, len(examples))
    step_x, step_y = CELL + GAP, CELL + GAP + LINES * (FONT + 4)
    sheet = Image.new("RGB", (columns * step_x + GAP, math.ceil(len(examples) / columns) * step_y + GAP), PAPER)
    font = ImageFont.load_default(FONT)
    for index, example in enumerate(examples):
        x, y = GAP + index % columns * step_x, GAP + index // columns * step_y
        sheet.paste(_cell(example, labels), (x, y))
        ImageDraw.Draw(sheet).multiline_text((x, y + CELL + 2), _wrapped(example.caption, font), INK, font, spacing=2)
    return sheet


def _cell(example: Example, labels: bool) -> Image:
    """One picture, as large as fits the cell."""
    from PIL import Image, ImageDraw

    height, width = example.size
    scale = CELL / max(height, width)
    size = round(width * scale), round(height * scale)
    enlarged = Image.fromarray(np.ascontiguousarray(example.picture)).resize(size, Image.Resampling.BICUBIC)
    cell = Image.new("RGB", (CELL, CELL), PAPER)
    cell.paste(enlarged, (0, 0))
    if labels:
        for mask in example.masks:
            outline = _outline(np.array(Image.fromarray(np.ascontiguousarray(mask)).resize(size, Image.Resampling.NEAREST)))
            cell.paste(OUTLINE, (0, 0), Image.fromarray(outline))
        draw = ImageDraw.Draw(cell)
        for box, keypoints in zip(example.boxes, example.keypoints, strict=True):
            draw.rectangle([value * scale for value in box.tolist()], outline=BOX)
            _draw_keypoints(draw, keypoints, scale)
        draw.line([((x + 0.5) * scale, (y + 0.5) * scale) for x, y in example.scribbles[0].tolist()], SCRIBBLE, 2)
    return cell


def _outline(mask: np.ndarray) -> np.ndarray:
    """Pixels of the mask that have a neighbour outside it."""
    inner = np.pad(mask, 1)
    return mask & ~(inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:])


def _draw_keypoints(draw: ImageDraw, keypoints: np.ndarray, scale: float) -> None:
    at = [((x + 0.5) * scale, (y + 0.5) * scale) for x, y, _ in keypoints.tolist()]
    colours = [LEFT if name.startswith("left") else RIGHT if name.startswith("right") else MIDDLE for name in NAMES]
    for a, b in LIMBS:
        if min(keypoints[a, 2], keypoints[b, 2]) > 0:
            draw.line([at[a], at[b]], colours[b] if colours[a] == colours[b] else MIDDLE, 1)
    for (x, y), (_, _, visible), colour in zip(at, keypoints.tolist(), colours, strict=True):
        if visible:
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour if visible == 2 else None, outline=colour if visible == 1 else INK)


def _wrapped(text: str, font: FreeTypeFont) -> str:
    """The text in at most LINES lines that are as wide as a cell."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > CELL:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines[:LINES])
