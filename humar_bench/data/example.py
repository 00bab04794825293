"""A picture and the people it is about, in pixels, before any transform. No torch.

Shapes: m people (RefHuman: one), K = 17 keypoints, (H, W) the picture. Pixel centres are whole coordinates for keypoints and scribbles;
boxes reach from edge to edge, so that one pixel is 1 wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SCRIBBLES, SCRIBBLE_POINTS = 5, 12


@dataclass(frozen=True)
class Example:
    """One entry of a data set."""

    picture: np.ndarray  # [H, W, 3] uint8, RGB
    boxes: np.ndarray  # [m, 4] float32 (left, top, right, bottom)
    keypoints: np.ndarray  # [m, K, 3] float32 (x, y, visibility 0 unlabelled, 1 hidden, 2 seen)
    area: np.ndarray  # [m] float32, pixels
    masks: np.ndarray  # [m, H, W] bool
    scribbles: np.ndarray  # [5, 12, 2] float32 (x, y)
    caption: str
    image_id: int
    orig_size: tuple[int, int]  # (H, W) before any transform

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.picture.shape[:2]
        return height, width
