"""Dynamic depth: iterations of a decoder until the keypoints of every picture have stopped moving.

Adaptive computation (Graves 2016) in its plainest form: no weight decides, the step of the refinement itself does.

Shapes: B batch, Q queries, K keypoints, N = K + 1 tokens of an instance, C width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humar_bench.skeleton.layers import SineEmbedding
from humar_bench.skeleton.pose_transformer import Memory, PoseDecoder
from humar_bench.skeleton.two_stage import with_centre


def may_ask(points: Tensor) -> bool:
    """Whether a forward may depend on a value: eagerly and on real numbers. Compilers, exporters, recorded graphs and tensors without
    values (meta, fake) get every iteration, so that their outputs are those of a model without a threshold."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(points) is not Tensor or points.is_meta:
        return False
    return not (points.is_cuda and torch.cuda.is_current_stream_capturing())


def still(before: Tensor, after: Tensor, below: float) -> bool:
    """Whether the keypoint that moved most, of all pictures and queries, moved less than `below` of the image's width or height.

    Points that did not move at all are no sign: the last layers of heads that were never trained are zero.
    """
    most = float((after - before).detach().abs().amax())
    return 0 < most < below


def iterate_until_still(
    decoder: PoseDecoder, x: Tensor, points: Tensor, memory: Memory, *, below: float, first: int
) -> tuple[list[Tensor], list[Tensor]]:
    """`PoseDecoder.forward` for inference, which looks after iteration `first` and each later one whether the points stand still.

    Queries x [B, Q, N, C] at points [B, Q, N, 2] -> as many outputs as there are iterations, those after the last that was done repeated:
    the very same tensors.
    """
    context, embed = decoder.prepare(memory), SineEmbedding(decoder.channels, scale=memory.valid_ratios[:, 0])
    hs_pose, refpoint_pose = [], [points.flatten(-2)]
    for i in range(decoder.iterations):
        query_pos = decoder.half_pose_ref_point_head(embed(points[:, :, decoder.placed(i)]).to(x.dtype))
        x = decoder.iterate(i, x, query_pos, points, context)
        before = points[:, :, 1:]
        keypoints = (decoder.logits(before) + decoder.pose_embed[i](x[:, :, 1:].contiguous())).sigmoid()
        points = with_centre(keypoints)
        hs_pose.append(x)
        refpoint_pose.append(points.flatten(-2))
        points = points.detach()
        if first <= i < decoder.iterations - 1 and still(before, keypoints, below):
            break
    left = decoder.iterations - len(hs_pose)
    return hs_pose + hs_pose[-1:] * left, refpoint_pose + refpoint_pose[-1:] * left
