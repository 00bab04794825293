"""Border cells that lie exactly on the threshold of the proposals' validity: one rounding decides whether they may be selected.

The test is 0.01 < p < 0.99, and at 50 valid cells a side the border cells lie at 0.5/50 and 49.5/50. Another runtime may round p, or the
threshold, the other way, and then other proposals are selected by a forward that is as right as ours. Whether that is all can be found
out: let the cells in on purpose, and everything else has to agree.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from humar_bench.skeleton import pose_transformer
from humar_bench.skeleton.geometry import Shapes, per_token
from humar_bench.skeleton.two_stage import BORDER

NEAR = 1e-6  # of the image's side: some roundings of float32 near 1
STEP = 4 * NEAR
SIDES = ("high", "low", "both")  # which of the cells on the threshold are let in


def cells_on_the_threshold(workload: Any) -> bool:
    """Whether a level of a workload has such cells; with padding, the valid cells are fewer in every image but the first."""
    return any(
        abs((cell + 0.5) / count - edge) < NEAR
        for side in {each for size in workload.feature_sizes for each in size}
        for count in ([*range(1, side + 1)] if workload.padded else [side])
        for cell in range(count) for edge in (BORDER, 1 - BORDER)
    )


@contextlib.contextmanager
def let_in(side: str) -> Iterator[None]:
    """Inside, proposals of cells on the threshold are used: those near 1 (high), near 0 (low), or both."""
    ordinary = pose_transformer.proposals

    def nudged(centres: Tensor, sizes: Tensor, padding: Tensor, shapes: Shapes) -> tuple[Tensor, Tensor]:
        cells = per_token(sizes, shapes)
        points = centres / cells
        high = (points - (1 - BORDER)).abs() < NEAR if side != "low" else torch.zeros_like(points, dtype=torch.bool)
        low = (points - BORDER).abs() < NEAR if side != "high" else torch.zeros_like(high)
        points = torch.where(high, points - STEP, torch.where(low, points + STEP, points))
        return ordinary(points * cells, sizes, padding, shapes)

    pose_transformer.proposals = nudged
    try:
        yield
    finally:
        pose_transformer.proposals = ordinary
