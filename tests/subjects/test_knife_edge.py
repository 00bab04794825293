"""Cells that lie exactly on the threshold of the proposals' validity: where they are, and what letting them in changes."""

from __future__ import annotations

import pytest
import torch

from humar_bench.args import Workload
from humar_bench.measures.agreement import agree
from humar_bench.running.arm import Arm
from humar_bench.skeleton import pose_transformer
from humar_bench.skeleton.geometry import token_centres
from humar_bench.subjects import knife_edge
from humar_bench.subjects.registry import build
from humar_bench.subjects.transformer import make_inputs
from tests.tolerance import assert_close

SHAPES = [(50, 4), (3, 50)]


@pytest.mark.parametrize(("sizes", "padded", "found"), [
    (((50, 4),), False, True), (((25, 25), (13, 13)), False, False), (((100, 134), (50, 67)), False, True),
    (((67, 60),), True, True), (((67, 60),), False, False), (((9, 7), (5, 4)), True, False),
])
def test_sides_of_fifty_valid_cells_are_on_the_threshold(sizes, padded, found):
    assert knife_edge.cells_on_the_threshold(Workload("x", 2, 1, sizes, padded)) is found


@pytest.mark.parametrize(("side", "rows", "more"), [("high", [49], 1), ("low", [0], 1), ("both", [0, 49], 2)])
def test_letting_cells_in_makes_them_valid_and_changes_no_other(side, rows, more):
    centres = token_centres(SHAPES, like=torch.zeros(1))
    sizes = torch.tensor([[[4.0, 50.0], [50.0, 3.0]]])
    padding = torch.zeros(1, len(centres), dtype=torch.bool)

    def invalid():
        logits, out = pose_transformer.proposals(centres, sizes, padding, SHAPES)
        return logits, out[0, :200].unflatten(0, (50, 4)), out[0, 200:].unflatten(0, (3, 50))

    logits, first, second = invalid()
    assert first.any(1).nonzero().flatten().tolist() == [0, 49] and second.any(0).nonzero().flatten().tolist() == [0, 49]
    with knife_edge.let_in(side):
        nudged, first, second = invalid()
    assert first.any(1).nonzero().flatten().tolist() == second.any(0).nonzero().flatten().tolist() == [x for x in (0, 49) if x not in rows]
    same = torch.isfinite(logits)
    assert_close(nudged[same], logits[same], scale=1 / (knife_edge.BORDER * (1 - knife_edge.BORDER)))  # a logit's slope at the border
    assert torch.equal(invalid()[0], logits), "it ends with the block"


class LetsIn(torch.nn.Module):
    """What a runtime does that rounds the threshold the other way, and one that is wrong besides."""

    def __init__(self, inner, wrong=1.0):
        super().__init__()
        self.inner, self.wrong = inner, wrong

    def forward(self, *inputs):
        with knife_edge.let_in("high"):
            outputs = self.inner(*inputs)
        return (*outputs[:3], outputs[3] * self.wrong, outputs[4])


def an_arm(args, workload, model, **more) -> Arm:
    def expect(given, side=None):
        with torch.inference_mode(), knife_edge.let_in(side) if side else torch.inference_mode():
            return model.inner(*given)

    inputs = make_inputs(args, workload)
    arm = Arm("x", model, inputs, None, expect=expect, check_s=float("inf"), **({"expect_at": expect} | more))
    arm()
    return arm


@pytest.fixture
def edgy(tiny_args) -> tuple:
    """A workload on the threshold on which letting cells in selects others."""
    import dataclasses

    args = dataclasses.replace(tiny_args, num_feature_levels=1, num_queries=90)
    workload = Workload("edge", 1, 90, ((50, 3),))
    model = build("efficient", args)
    inputs = make_inputs(args, workload)
    with torch.inference_mode():
        ordinary = model(*inputs)
        with knife_edge.let_in("high"):
            other = model(*inputs)
    assert agree(other, ordinary, "float32").common_share < 1, "else there is nothing to explain"
    return args, workload, model


def test_where_only_border_cells_decide_the_outputs_agree_and_the_record_says_so(edgy):
    args, workload, model = edgy
    arm = an_arm(args, workload, LetsIn(model))
    arm.check_first()
    assert arm.measured()["agreement"]["border_cells"] == "high" and arm.agreement.common_share == 1


def test_border_cells_excuse_nothing_else(edgy):
    args, workload, model = edgy
    for arm in (an_arm(args, workload, LetsIn(model, wrong=1.01)), an_arm(args, workload, LetsIn(model), expect_at=None)):
        with pytest.raises(Exception, match="differ from a float32 eager forward"):
            arm.check_first()
