"""A forward that replaces what everybody in its process calls is named, and what it replaced is put back."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from humar_bench import RunArgs, benchmark
from humar_bench.errors import MeasurementError
from humar_bench.measures.untouched import left_untouched

PLACES = [
    (torch, "matmul", "torch.matmul"), (nn.functional, "linear", "torch.nn.functional.linear"), (torch.Tensor, "add", "torch.Tensor.add"),
    (torch.Tensor, "__add__", "torch.Tensor.__add__"), (nn.Module, "__call__", "torch.nn.Module.__call__"),
    (time, "perf_counter", "time.perf_counter"),
    (torch.cuda, "synchronize", "torch.cuda.synchronize"), (nn.Linear, "forward", "torch.nn.Linear.forward"),
    (nn.Linear, "__call__", "torch.nn.Linear.__call__"),
]


@pytest.mark.parametrize(("where", "name", "said"), PLACES)
def test_a_replaced_function_is_named_and_put_back(where, name, said):
    was, own = getattr(where, name), name in vars(where)
    with pytest.raises(MeasurementError, match=f"replaces {said} for everything"), left_untouched():
        setattr(where, name, lambda *args, **more: was(*args, **more))
    assert getattr(where, name) is was and (name in vars(where)) is own


def test_it_is_put_back_where_the_forward_raises_too():
    was = torch.relu
    with pytest.raises(ZeroDivisionError), left_untouched():
        torch.relu = None
        raise ZeroDivisionError
    assert torch.relu is was


def test_what_is_put_back_by_itself_and_what_is_new_is_nobodys_business():
    was = torch.relu
    with left_untouched():
        torch.relu = None
        torch.relu = was
        torch.a_name_of_ones_own = len
    del torch.a_name_of_ones_own


def test_what_torchs_compiler_puts_there_at_its_first_use_stays(monkeypatch):
    from torch._dynamo import mutation_guard

    for name in ("__init__", "__setstate__"):
        monkeypatch.setattr(nn.Module, name, getattr(nn.Module, name))  # put back after the test
    monkeypatch.setattr(nn.Module, "___needs_generation_tag_patch", True, raising=False)
    was = nn.Module.__init__
    with left_untouched():
        mutation_guard.install_generation_tagging_init()
    assert nn.Module.__init__ is not was
    with pytest.raises(MeasurementError, match="replaces torch.nn.Module.__init__"), left_untouched():
        nn.Module.__init__ = lambda self, *args, **more: was(self, *args, **more)


WRAPS = """
import torch
from efficient.transformer import build_efficient_conv_attention_transformer as build

def make(args):
    model = build(args)
    inner = model.forward
    def forward(*inputs):
        before = torch.nn.functional.linear
        torch.nn.functional.linear = lambda *given, **more: before(*given, **more)
        return inner(*inputs)
    model.forward = forward
    return model
"""


PATCHES = """
import torch
from torch import nn

def replace():
    nn.functional.linear = lambda x, weight, bias=None: x[..., :1].expand(*x.shape[:-1], len(weight))

def patching():
    replace()
    return nn.Linear(8, 4)

def plain():
    return nn.Linear(8, 4)

def numbers(batch):
    return torch.randn(batch, 8)

def patching_numbers(batch):
    replace()
    return numbers(batch)
"""


def test_a_builder_that_replaces_torchs_functions_costs_its_own_row_alone(tmp_path):
    (tmp_path / "patches.py").write_text(PATCHES)
    names = {name: f"{tmp_path / 'patches.py'}:{name}" for name in ("patching", "plain")}
    run = benchmark(names, inputs=f"{tmp_path / 'patches.py'}:numbers", measures=["flops"])
    bad, good = run.select(architecture="patching")[0], run.select(architecture="plain")[0]
    assert bad.reason.startswith("the builder of patching replaces torch.nn.functional.linear for everything in its process")
    assert good.ok and good.measured["matmul_flops"] == 2 * 2 * 8 * 4


def test_a_function_of_inputs_that_replaces_torchs_functions_is_named(tmp_path):
    (tmp_path / "patches.py").write_text(PATCHES)
    place = tmp_path / "patches.py"
    run = benchmark({"plain": f"{place}:plain"}, inputs=f"{place}:patching_numbers", measures=["flops"])
    assert f"{place}:patching_numbers replaces torch.nn.functional.linear for everything" in run[0].reason


@pytest.mark.slow
def test_a_model_that_wraps_torch_at_every_call_costs_its_own_rows_alone(tmp_path, tiny_args, tiny_workload):
    """Each call would make the next one longer, for the others too."""
    (tmp_path / "wraps.py").write_text(WRAPS)
    run = RunArgs(device="cpu", processes=1, min_runs=1, max_runs=2, budget=0.2, threads=1, control=False)
    made = benchmark(["efficient", f"mine={tmp_path}/wraps.py:make"], tiny_args, tiny_workload, run=run)
    failed = [record for record in made if not record.ok]
    assert {record.architecture for record in failed} == {"mine"} and {record.measure for record in failed} >= {"flops", "fps", "memory"}
    for record in failed:
        assert "replaces torch.nn.functional.linear for everything in its process" in record.reason, record.measure


FIRST_USE = """
import torch
from humar_bench.measures.untouched import left_untouched
was = torch.manual_seed
with left_untouched():
    import torch._dynamo
assert torch.manual_seed is not was
"""


def test_strangers_the_first_use_of_torchs_compiler_may_wrap_manual_seed():
    subprocess.run([sys.executable, "-c", FIRST_USE], check=True)
