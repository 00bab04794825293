"""torch.compile without graph breaks and torch.export, on every built-in architecture, with the outputs of an eager forward."""

from __future__ import annotations

import warnings

import pytest
import torch

from humar_bench.args import BUILT_IN, ModelArgs, Workload
from humar_bench.subjects.registry import build
from humar_bench.subjects.transformer import make_inputs
from tests.models import shaken
from tests.tolerance import assert_outputs_close, chained_terms

ARGS = ModelArgs(
    hidden_dim=16, nheads=2, dim_feedforward=24, enc_layers=1, dec_layers=2, num_feature_levels=2, num_queries=3, num_body_points=4,
    efficient_nheads=2, efficient_enc_layers=1, efficient_encoder_sets=1,
)
WORK = Workload("compile", 2, 3, ((6, 5), (3, 2)), padded=True)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if "-" in name else name for name in BUILT_IN])
def model(request) -> torch.nn.Module:
    torch.compiler.reset()
    return shaken(build(request.param, ARGS)).double()


@pytest.fixture
def inputs() -> tuple:
    return tuple(make_inputs(ARGS, WORK, dtype=torch.float64))


def test_compile_takes_the_forward_in_one_graph(model, inputs):
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        expected = model(*inputs)
        made = torch.compile(model, fullgraph=True, backend="aot_eager")(*inputs)
    assert_outputs_close(made, expected, terms=chained_terms(model))


def test_export_gives_a_program_with_the_same_outputs(model, inputs):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = model(*inputs)
        program = torch.export.export(model, inputs).module()
        assert_outputs_close(program(*inputs), expected, terms=chained_terms(model))
        other = tuple(make_inputs(ARGS, WORK, seed=1, dtype=torch.float64))
        assert_outputs_close(program(*other), model(*other), terms=chained_terms(model))
