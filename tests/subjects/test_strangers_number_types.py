"""Number types of their own: a model is measured as it was built; --dtype converts floating-point weights alone, and it is said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from humar_bench.errors import MeasurementError
from humar_bench.judging.verdicts import judge
from humar_bench.measures.params import count_parameters
from humar_bench.report.params_table import params_tables
from humar_bench.running.task import success
from humar_bench.subjects.making import as_built, made
from tests.judging.test_speeds import STATE, a_run, feet

C = 6


class Mixed(nn.Module):
    """A layer in float64, a filter of complex numbers, a scale in bfloat16, an index."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(C, C).double()
        self.filter = nn.Parameter(torch.full((C,), 1 + 2j))
        self.register_buffer("scale", torch.ones(3, dtype=torch.bfloat16))
        self.register_buffer("index", torch.arange(4))


BYTES = 8 * (C * C + C) + 8 * C


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_strangers_weights_stay_as_they_were_built(device, dtype):
    model = made("mixed", Mixed, device=device, dtype=dtype)
    assert {name: each.dtype for name, each in model.state_dict().items()} == {
        "linear.weight": torch.float64, "linear.bias": torch.float64, "filter": torch.complex64, "scale": torch.bfloat16,
        "index": torch.int64,
    }
    assert count_parameters(model).param_bytes == BYTES
    assert as_built(model).measured() == {"as_built": {"float64": C * C + C, "complex64": C, "bfloat16": 3}, "converted_to": ""}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_strangers_only_floating_point_weights_are_converted_where_it_was_asked(device):
    model = made("mixed", Mixed, device=device, dtype=torch.float16)
    assert {name: each.dtype for name, each in model.state_dict().items()} == {
        "linear.weight": torch.float16, "linear.bias": torch.float16, "filter": torch.complex64, "scale": torch.float16,
        "index": torch.int64,
    }
    assert isinstance(model.filter, nn.Parameter) and (device == "meta" or bool((model.filter == 1 + 2j).all()))
    found = as_built(model)
    assert found.converted_to == "float16" and found.types == {"float64": C * C + C, "complex64": C, "bfloat16": 3}


def test_strangers_a_tied_weight_stays_tied_when_it_is_converted():
    def tied():
        model = Mixed()
        model.again = nn.Linear(C, C)
        model.again.weight = model.linear.weight
        return model

    model = made("tied", tied, dtype=torch.bfloat16)
    assert model.again.weight is model.linear.weight and model.linear.weight.dtype is torch.bfloat16


def test_strangers_an_ordinary_model_says_nothing():
    assert as_built(made("plain", lambda: nn.Linear(2, 3))).measured() == {} == as_built(nn.Linear(2, 3)).measured()
    with pytest.raises(MeasurementError, match="returned a int"):
        made("none", lambda: 3)


def told(dtype):
    measured = success(made("mixed", Mixed, dtype=dtype), count_parameters(made("mixed", Mixed, dtype=dtype)).measured())["measured"]
    return params_tables({"mixed": measured}, {}, "mixed")[0].feet


def test_strangers_number_types_stand_below_the_table():
    kept = "6 numbers of complex64, 42 numbers of float64, 3 numbers of bfloat16"
    assert told(torch.float32) == (f"mixed: weights and buffers measured in the number types they were built in: {kept}.",)
    assert told(torch.bfloat16) == (
        "mixed: converted to bfloat16, as asked: 42 numbers of float64.",
        "mixed: weights and buffers measured in the number types they were built in: 6 numbers of complex64.",
    )


def test_strangers_a_model_built_in_another_number_type_has_a_verdict_and_one_that_changes_it_has_none():
    double = {"conditions": [{**STATE, "weights": ["float64"]}]}
    built = a_run({"name": "b", "seconds": 0.2, "as_built": {"float64": 42}, "converted_to": "", **double})
    assert judge(built, "a").rows["b"].detected.verdict == "slower"
    assert "b: timed in the number types it was built in: 42 numbers of float64." in feet(built)
    changed = judge(a_run({"name": "b", "seconds": 0.2, **double}), "a").rows["b"].detected
    assert changed.verdict == "invalid" and "weights is ['float64'] for b" in changed.reason or "weights is float64 for b" in changed.reason


def test_strangers_what_is_measured_is_what_its_record_may_hold():
    from humar_bench.records.fields import faults
    from humar_bench.records.schema import Params

    measured = success(made("mixed", Mixed), count_parameters(made("mixed", Mixed)).measured())["measured"]
    assert faults(measured, Params) == []
    assert faults({**measured, "as_built": {"float64": -1}}, Params) != []
