"""Scribbles from a mask, as RefHuman's are regenerated: a Bezier curve through the inside, in whole numbers."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from humar_bench.data.draws import Draws
from humar_bench.data.example import SCRIBBLE_POINTS

KERNEL, KERNEL_STEP, ENOUGH = 10, 3, 50  # side of the erosion, how it shrinks, pixels it has to leave
TRIES, FEW_TRIES = 10, 3
_K = np.array([*range(11), 10])  # t in tenths; the published loop ends beside t = 1 and then adds the end itself
_BEZIER = np.stack([(10 - _K) ** 3, 3 * (10 - _K) ** 2 * _K, 3 * (10 - _K) * _K**2, _K**3], 1)  # [12, 4], thousandths


def inside_of(mask: np.ndarray) -> np.ndarray:
    """[n, 2] whole (row, column) of the mask [H, W] well inside it: eroded by a kernel that shrinks until enough is left."""
    top, bottom, left, right = bounds(mask)
    cut = mask[top:bottom, left:right]
    for side in range(KERNEL, 1, -KERNEL_STEP):
        eroded = ndimage.minimum_filter(cut, size=side, mode="constant", cval=0)
        if np.count_nonzero(eroded) >= ENOUGH:
            return np.argwhere(eroded) + (top, left)
    return np.argwhere(cut) + (top, left)


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """First row, row after the last, first column, column after the last of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def draw_scribbles(draws: Draws, mask: np.ndarray, number: int, tries: int = TRIES) -> tuple[np.ndarray, np.ndarray]:
    """[number, 12, 2] float32 (x, y): curves of 4 pixels well inside the mask [H, W], sorted by row; and which of them lie in it [number].

    Each is the first of its tries all of whose points lie in the mask, or its first try.
    """
    inside = inside_of(mask)
    chosen = inside[draws.below(len(inside), number, tries, 4)]  # [number, tries, 4, (row, column)]
    chosen = np.take_along_axis(chosen, np.argsort(chosen[..., :1], axis=2, kind="stable"), 2)
    curves = (_BEZIER[:, :, None] * chosen[:, :, None]).sum(3) // 1000  # [number, tries, 12, (row, column)]
    within = mask[curves[..., 0], curves[..., 1]].all(-1)
    each, first = np.arange(number), within.argmax(1)
    return curves[each, first, :, ::-1].astype(np.float32), within[each, first]


def scribbles_within(draws: Draws, mask: np.ndarray, number: int) -> np.ndarray:
    """[number, 12, 2] float32 (x, y), every point in the mask [H, W]; where no curve stays inside, pixels of it from top to bottom."""
    scribbles, within = draw_scribbles(draws, mask, number, FEW_TRIES)
    for index in np.flatnonzero(~within):
        scribbles[index], (stays,) = draw_scribbles(draws, mask, 1)
        if not stays:
            inside = inside_of(mask)
            scribbles[index] = inside[np.sort(draws.below(len(inside), SCRIBBLE_POINTS))][:, ::-1]  # they are listed row by row
    return scribbles
