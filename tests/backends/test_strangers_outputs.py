"""Outputs in which one tensor stands twice, an input stands again, or parts lie on each other: as many come back, each the right one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from humar_bench.args import ModelArgs, Workload
from humar_bench.backends import prepare
from humar_bench.subjects.transformer import make_inputs
from tests.data.foreign_models import SmallPose

ARGS = ModelArgs(hidden_dim=8, nheads=2, dec_layers=3, num_feature_levels=2, num_queries=3, num_body_points=4, efficient_nheads=2)
WORK = Workload("outputs", 2, 3, ((4, 3), (2, 2)))


class Again(SmallPose):
    """A tensor in two parts of the outputs, a view beside what it lies on, and an input handed back."""

    def forward(self, srcs, masks, pos_embeds, query_embed):
        hs, points, mix_points, mix, maps = super().forward(srcs, masks, pos_embeds, query_embed)
        return [hs[0], hs[0] + 1, hs[0]], [points[0], points[0].clamp(0, 1), points[0], points[0]], points[0][..., 2:], mix, [srcs[0]]


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("kind", [SmallPose, Again])
def test_strangers_an_output_that_stands_twice_comes_back_twice(kind, backend):
    pytest.importorskip(backend)
    torch.manual_seed(0)
    model = kind(ARGS.hidden_dim, ARGS.num_body_points, ARGS.dec_layers).eval()
    call = prepare(backend, model, make_inputs(ARGS, WORK)).call
    for seed in (0, 1):
        inputs = make_inputs(ARGS, WORK, seed=seed)
        with torch.inference_mode():
            got, want = call(*inputs), model(*inputs)
        assert [len(each) for each in got] == [len(each) for each in want]
        for one, other in zip(torch.utils._pytree.tree_leaves(got), torch.utils._pytree.tree_leaves(want), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_strangers_an_output_of_any_containers_is_put_together_again():
    pytest.importorskip(backend := "onnxruntime")

    class HandsOut(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.randn(3))

        def forward(self, srcs, masks, pos_embeds, query_embed):
            y = query_embed * 2
            return y, [y, self.scale + 0 * y.mean()]

    model, inputs = HandsOut().eval(), make_inputs(ARGS, WORK)
    first, (second, scale) = prepare(backend, model, inputs).call(*inputs)
    assert torch.equal(first, inputs.query_embed * 2) and torch.equal(second, first)
    torch.testing.assert_close(scale, model.scale.detach())
