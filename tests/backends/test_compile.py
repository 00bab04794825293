"""torch.compile without graph breaks and torch.export, on every built-in architecture, with the outputs of an eager forward."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.utils._pytree import tree_leaves

from humar_bench.args import BUILT_IN, ModelArgs, Workload
from humar_bench.subjects.registry import build
from humar_bench.subjects.transformer import make_inputs
from tests.models import shaken

ARGS = ModelArgs(
    hidden_dim=16, nheads=2, dim_feedforward=24, enc_layers=1, dec_layers=2, num_feature_levels=2, num_queries=3, num_body_points=4,
    efficient_nheads=2, efficient_enc_layers=1, efficient_encoder_sets=1,
)
WORK = Workload("compile", 2, 3, ((6, 5), (3, 2)), padded=True)


@pytest.fixture(params=list(BUILT_IN))
def model(request) -> torch.nn.Module:
    torch.compiler.reset()
    return shaken(build(request.param, ARGS))


@pytest.fixture
def inputs() -> tuple:
    return tuple(make_inputs(ARGS, WORK))


def assert_equal(made, expected) -> None:
    made, expected = tree_leaves(made), tree_leaves(expected)
    assert len(made) == len(expected)
    for one, other in zip(made, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_compile_takes_the_forward_in_one_graph(model, inputs):
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        expected = model(*inputs)
        assert_equal(torch.compile(model, fullgraph=True, backend="aot_eager")(*inputs), expected)


def test_export_gives_a_program_with_the_same_outputs(model, inputs):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = model(*inputs)
        assert_equal(torch.export.export(model, inputs).module()(*inputs), expected)
        other = tuple(make_inputs(ARGS, WORK, seed=1))
        assert_equal(torch.export.export(model, inputs).module()(*other), model(*other))
