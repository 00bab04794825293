"""Dynamic depth: when the keypoints of every picture have stopped moving, so that a decoder may stop.

Adaptive computation (Graves 2016) in its plainest form: no weight decides, the step of the refinement itself does.

Shapes: B batch, Q queries, K keypoints.
"""

from __future__ import annotations

import torch
from torch import Tensor


def may_ask(points: Tensor) -> bool:
    """Whether a forward may depend on a value: eagerly and on real numbers. Compilers, exporters, recorded graphs and tensors without
    values (meta, fake) get every iteration, so that their outputs are those of a model without a threshold."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(points) is not Tensor or points.is_meta:
        return False
    return not (points.is_cuda and torch.cuda.is_current_stream_capturing())


def still(before: Tensor, after: Tensor, below: float) -> bool:
    """Whether the keypoint that moved most, of all pictures and queries, moved less than `below` of the image's width or height:
    [B, Q, K, 2] before and after.

    Points that did not move at all are no sign: the last layers of heads that were never trained are zero.
    """
    most = float((after - before).detach().abs().amax())
    return 0 < most < below
