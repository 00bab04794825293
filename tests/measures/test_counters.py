"""Other counters: converted to FLOP, each difference named, nothing left behind."""

from __future__ import annotations

import importlib.metadata
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from humar_bench.args import BUILT_IN
from humar_bench.errors import UsageError
from humar_bench.measures import counters
from humar_bench.measures.counters import cross_check
from humar_bench.measures.flops import count_flops
from humar_bench.subjects.registry import build
from tests.small_modules import Calls, same, shapes, state

COUNTERS = ["fvcore", "thop", "profiler", "flop_counter"]


class Mixed(nn.Module):
    """Something each counter misses, something each adds, and a result that is thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.wasted = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 5)
        self.conv = nn.Conv1d(7, 7, 3, padding=1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        x = self.norm(self.linear(x)) * 2
        self.wasted(x)
        x = x + self.attention(x, self.conv(x), x)[0]
        x = torch.baddbmm(x, x @ x.transpose(1, 2), x)
        x = x.unsqueeze(1)  # four dimensions: torch's fused CPU kernel
        return F.scaled_dot_product_attention(x, x, x)


LINEAR = 2 * 2 * 7 * 8 * 8
ATTENTION = 4 * LINEAR + 2 * 2 * 2 * 7 * 7 * 8
WASTED, CONV, PRODUCT = 2 * 2 * 7 * 8 * 5, 2 * 2 * 8 * 7 * 7 * 3, 2 * 2 * 7 * 7 * 8


@pytest.mark.parametrize("counter", COUNTERS)
def test_a_plain_model_is_counted_alike_in_its_own_unit(counter: str) -> None:
    check = cross_check(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()), shapes((2, 3, 7, 6)), counter)
    flops = 2 * 2 * 5 * 5 * 4 * 3 * 9
    assert (check.as_flops, check.ratio) == (flops, 1.0)
    assert check.reported == (flops if check.unit == "FLOP" else flops // 2)
    assert check.unit.startswith("FLOP" if counter in ("profiler", "flop_counter") else "MAC")
    assert (check.missed, check.differences, check.why) == ((), (), "no difference")
    assert check.version


@pytest.mark.parametrize("counter", COUNTERS)
def test_the_differences_add_up_without_a_rest(counter: str) -> None:
    model, inputs = Mixed().eval(), shapes((2, 7, 8))
    ours = count_flops(model, inputs).matmul_flops
    assert ours == LINEAR + WASTED + CONV + ATTENTION + 4 * PRODUCT
    check = cross_check(model, inputs, counter)
    assert check.as_flops - ours == sum(row.flops for row in check.differences) != 0
    assert not any("do not add up" in row.why for row in check.differences)
    assert check.ratio == check.as_flops / ours
    assert json.loads(json.dumps(check.measured()))["missed"] == list(check.missed)


def differences(counter: str) -> dict[str, int]:
    return {row.where: row.flops for row in cross_check(Mixed().eval(), shapes((2, 7, 8)), counter).differences}


def test_fvcore_misses_baddbmm_attention_and_dead_code_and_adds_norms() -> None:
    assert differences("fvcore") == {
        "aten::layer_norm": 2 * 5 * 2 * 7 * 8,
        "aten::baddbmm": -PRODUCT,
        "aten::scaled_dot_product_attention": -2 * PRODUCT,
        "aten::linear": -WASTED,
    }
    check = cross_check(Mixed().eval(), shapes((2, 7, 8)), "fvcore")
    assert next(row.why for row in check.differences if row.where == "aten::linear") == counters.DEAD_CODE
    assert set(check.missed) == {
        f"aten::baddbmm ({PRODUCT} FLOP)", f"aten::scaled_dot_product_attention ({2 * PRODUCT} FLOP)", f"aten::linear ({WASTED} FLOP)",
    }  # fmt: skip


def test_thop_misses_what_is_not_a_module_of_a_type_it_knows() -> None:
    found = differences("thop")
    assert found == {"MultiheadAttention x1": -ATTENTION, "Mixed x1": -4 * PRODUCT, "LayerNorm x1": 2 * 4 * 2 * 7 * 8}


def test_the_profiler_misses_fused_attention_and_1d_convolutions_and_adds_elements() -> None:
    found = differences("profiler")
    assert found.pop("aten::scaled_dot_product_attention") == -2 * PRODUCT
    assert found.pop("aten::conv1d") == -CONV  # it knows 2-D convolutions only
    assert set(found) <= {"aten::mul", "aten::add"} and all(flops > 0 for flops in found.values())


def test_the_flop_counter_of_torch_misses_what_is_fused_where_it_runs() -> None:
    assert differences("flop_counter") == {"aten::scaled_dot_product_attention": -2 * PRODUCT}
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    check = cross_check(Calls(lambda m, x: m.a(x, x, x, need_weights=False)[0], a=layer), shapes((2, 7, 8)), "flop_counter")
    attention = 2 * 2 * 2 * 7 * 7 * 8
    assert {row.where: row.flops for row in check.differences} == {
        "matrix product": -4 * LINEAR, "aten::scaled_dot_product_attention": -attention
    }
    assert check.as_flops == 0 and {row.why for row in check.differences} == {counters.FUSED}


@pytest.mark.parametrize("counter", COUNTERS)
def test_the_fused_encoder_layer_leaves_no_rest_either(counter: str) -> None:
    layer = nn.TransformerEncoderLayer(12, 4, 20, batch_first=True).eval()
    check = cross_check(layer, shapes((2, 7, 12)), counter)
    assert check.missed
    assert check.as_flops - sum(row.flops for row in check.differences) == 2 * 2 * (4 * 7 * 144 + 2 * 49 * 12) + 2 * 2 * 7 * 12 * 20 * 2


@pytest.mark.parametrize("counter", COUNTERS)
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_as_before(counter: str, training: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train(training)
    model[0].register_forward_hook(lambda module, inputs, output: output + 1)
    inputs = shapes((5, 3))
    before = state(model)
    assert cross_check(model, inputs, counter).reported is not None
    assert same(state(model), before)
    assert torch.equal(inputs[0], torch.zeros(5, 3))


class Moody(nn.Module):
    """Runs on meta, where we count, and raises with values, where the counters run it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        y = self.norm(self.linear(x))
        if not x.is_meta:
            raise ValueError("not with values.")
        return y


@pytest.mark.parametrize("counter", COUNTERS)
def test_a_counter_that_raises_is_a_result_that_says_so_and_the_model_is_as_before(counter: str) -> None:
    model = Moody()
    before = state(model)
    check = cross_check(model, shapes((5, 3)), counter)
    assert (check.reported, check.as_flops, check.ratio) == (None, None, None)
    assert check.why == f"{counter} raised ValueError: not with values."
    assert same(state(model), before)


@pytest.mark.parametrize("counter", ["fvcore", "thop"])
def test_a_counter_that_is_not_installed_is_a_result_that_says_so(counter: str, monkeypatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    check = cross_check(nn.Linear(3, 4), shapes((5, 3)), counter)
    assert (check.reported, check.version) == (None, None)
    assert check.why == f"{counter} is not installed; pip install {counter}."


def test_wrong_use_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="the counter is 'ptflops'; choose one of fvcore, thop, profiler"):
        cross_check(nn.Linear(3, 4), shapes((5, 3)), "ptflops")
    with pytest.raises(UsageError, match="thop runs the model, and this one is on the meta device; build it with weights"):
        cross_check(nn.Linear(3, 4, device="meta"), shapes((5, 3)), "thop")


def test_a_shared_module_is_counted_four_times_by_thop_and_the_surplus_is_named() -> None:
    shared = nn.Linear(3, 3)
    model = Calls(lambda m, x: m.a(m.b(x)), a=nn.Sequential(shared), b=nn.Sequential(shared))
    check = cross_check(model, shapes((2, 3)), "thop")
    calls = 2 * (2 * 2 * 3 * 3)
    assert check.as_flops == 4 * calls  # its hook is put on once per parent, and its sum read once per parent
    assert [(row.where, row.flops) for row in check.differences] == [("Linear x2", 3 * calls)]


@pytest.mark.parametrize("counter", COUNTERS)
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if "-" in name else ()) for name in BUILT_IN])
def test_the_built_in_architectures_are_explained_without_a_rest(name: str, counter: str, tiny_args, tiny_workload) -> None:
    from humar_bench.subjects.transformer import make_inputs

    model, inputs = build(name, tiny_args), make_inputs(tiny_args, tiny_workload)
    ours = count_flops(model, inputs, strict=True)
    check = cross_check(model, inputs, counter, count=ours)
    assert check.as_flops - ours.matmul_flops == sum(row.flops for row in check.differences)
    assert not any("do not add up" in row.why or "differently" in row.why for row in check.differences)
