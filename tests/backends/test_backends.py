"""Every backend on every built-in architecture: the outputs of an eager forward, plain facts, and a sentence where it cannot be."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from humar_bench import backends
from humar_bench.args import BACKENDS, DTYPES, ModelArgs, Workload
from humar_bench.backends import Prepared, compiled, cuda_graph, prepare, why_not
from humar_bench.errors import MeasurementError, UsageError
from humar_bench.measures.agreement import TOLERANCES, agree
from humar_bench.subjects.registry import build
from humar_bench.subjects.transformer import make_inputs
from tests.models import shaken

ARGS = ModelArgs(
    hidden_dim=32, nheads=2, dim_feedforward=24, enc_layers=1, dec_layers=2, num_feature_levels=2, num_queries=3, num_body_points=4,
    efficient_nheads=2, efficient_enc_layers=1, efficient_encoder_sets=1,
)
WORK = Workload("backends", 2, 3, ((6, 5), (3, 2)), padded=True)


@pytest.fixture(params=["original", "efficient"], scope="module")
def model(request) -> nn.Module:
    return shaken(build(request.param, ARGS))


# Where a backend takes ten seconds to prepare a model, one architecture in `make test` and both in `make test-slow`.
EFFICIENT_FIRST = ["efficient", pytest.param("original", marks=pytest.mark.slow)]


def assert_agrees(model: nn.Module, prepared: Prepared, dtype: str = "float32") -> None:
    """On the inputs it was prepared with, on others, and once more on the first ones."""
    for seed in (0, 1, 0):
        inputs = make_inputs(ARGS, WORK, seed=seed)
        with torch.inference_mode():
            found = agree(prepared.call(*inputs), model(*inputs), dtype)
        spare = 1 if dtype == "int8" else 2  # eight bits on random weights leave none
        assert not found.fault and found.max_error < TOLERANCES[dtype] / spare


# Really run -----------------------------------------------------------------------------------------------------------------------


def test_eager_is_the_model_itself(model):
    prepared = prepare("eager", model, make_inputs(ARGS, WORK))
    assert prepared.call is model and prepared.needs_model and not prepared.overwrites
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    assert weights < prepared.did["file_bytes"] < weights + 200_000


def test_eager_int8_is_a_copy_with_quantised_linear_layers(model):
    before = {name: each.clone() for name, each in model.named_parameters()}
    prepared = prepare("eager", model, make_inputs(ARGS, WORK), dtype="int8")
    linear = sum(type(each) is nn.Linear for each in model.modules())
    assert 0 < prepared.did["int8_layers"] <= linear and not prepared.needs_model
    assert_agrees(model, prepared, "int8")
    assert all(torch.equal(before[name], each) for name, each in model.named_parameters())


@pytest.mark.parametrize("model", EFFICIENT_FIRST, indirect=True)
def test_compile_is_done_before_the_first_call(model, monkeypatch):
    monkeypatch.setattr(compiled, "COMPILER", "aot_eager")
    torch.compiler.reset()
    prepared = prepare("compile", model, make_inputs(ARGS, WORK))
    assert prepared.did["graphs"] == 1 and prepared.did["graph_breaks"] == 0 and prepared.did["compiler"] == "aot_eager"
    from torch._dynamo.utils import counters

    counters.clear()
    assert_agrees(model, prepared)
    assert not counters["stats"], "a call compiled something"


def test_a_graph_break_is_counted_with_its_reason(monkeypatch):
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, srcs, masks, pos_embeds, query_embed):
            x = self.layer(query_embed)
            print(end="")
            torch._dynamo.graph_break()
            return self.layer(x)

    monkeypatch.setattr(compiled, "COMPILER", "aot_eager")
    torch.compiler.reset()
    did = prepare("compile", Breaks().eval(), ([], [], [], torch.ones(1, 4))).did
    assert did["graph_breaks"] >= 1 and did["graphs"] >= 2 and all(did["graph_break_reasons"])


def test_what_cannot_be_compiled_is_a_sentence(monkeypatch):
    class Raises(nn.Linear):
        def forward(self, srcs, masks, pos_embeds, query_embed):
            raise IndexError("no such level.\nmore")

    monkeypatch.setattr(compiled, "COMPILER", "aot_eager")
    with pytest.raises(MeasurementError, match=r"^torch.compile cannot compile it: IndexError: no such level\.$"):
        prepare("compile", Raises(2, 2), ([], [], [], torch.ones(1, 2)))


@pytest.mark.parametrize("model", EFFICIENT_FIRST, indirect=True)
def test_onnxruntime_runs_both_architectures(model):
    pytest.importorskip("onnxruntime")
    inputs = make_inputs(ARGS, WORK)
    prepared = prepare("onnxruntime", model, inputs)
    assert prepared.did["providers"] == ["CPUExecutionProvider"] and prepared.did["operators"] > 100
    assert prepared.did["file_bytes"] > sum(each.numel() * each.element_size() for each in model.parameters())
    assert_agrees(model, prepared)


@pytest.mark.parametrize("model", EFFICIENT_FIRST, indirect=True)
def test_openvino_runs_both_architectures(model):
    pytest.importorskip("openvino")
    prepared = prepare("openvino", model, make_inputs(ARGS, WORK))
    assert prepared.did["threads"] == torch.get_num_threads() == 1 and prepared.did["precision"] == "f32"
    assert_agrees(model, prepared)
    with torch.inference_mode():  # it uses its memory again in each call, and its outputs have memory of their own
        first = prepared.call(*make_inputs(ARGS, WORK))[3]
        kept = first.clone()
        assert not torch.equal(prepared.call(*make_inputs(ARGS, WORK, seed=1))[3], kept) and torch.equal(first, kept)


@pytest.mark.slow
def test_openvino_never_computes_in_another_number_type_than_asked():
    pytest.importorskip("openvino")
    model = build("efficient", ARGS, dtype=torch.float16)
    try:
        prepared = prepare("openvino", model, make_inputs(ARGS, WORK, dtype=torch.float16), dtype="float16")
    except MeasurementError as error:  # a CPU without float16 instructions, or whose instructions were hidden from it (make test-avx2)
        said = r"openvino (computes float16 as (bf16|f32) on this CPU; use float32, or the number .*|cannot run it: .*)\."
        assert re.fullmatch(said, str(error))
    else:
        assert prepared.did["precision"] == "f16"


# A recorded graph, without a device ----------------------------------------------------------------------------------------------------


class FakeCuda:
    """Records what a model does between two tensors and does it again at each replay, as a CUDA graph does with its kernels."""

    def __init__(self):
        self.log = []

    def Stream(self):
        return SimpleNamespace(wait_stream=lambda other: self.log.append("side waits"))

    def current_stream(self):
        return SimpleNamespace(wait_stream=lambda other: self.log.append("main waits"))

    def stream(self, side):
        return contextlib.nullcontext()

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: self.work())

    @contextlib.contextmanager
    def graph(self, graph):
        self.log.append("record")
        yield

    def work(self):
        raise AssertionError("nothing was recorded")


class Doubles(nn.Module):
    """Writes twice its second map into a tensor of its own; counts its eager forwards."""

    def __init__(self, cuda):
        super().__init__()
        self.layer, self.calls, self.cuda = nn.Linear(2, 2), 0, cuda

    def forward(self, srcs, masks, pos_embeds, query_embed):
        self.calls += 1
        out = torch.empty_like(srcs[1])

        def work():
            out.copy_(2 * srcs[1] + query_embed)

        work()
        self.cuda.work = work
        return out


def some_inputs(value: float) -> tuple:
    return [torch.full((2,), -1.0), torch.full((2,), value)], [], [], torch.full((2,), 0.5)


def test_a_cuda_graph_is_recorded_after_a_warm_up_and_replayed_on_copies_of_the_inputs():
    cuda = FakeCuda()
    model = Doubles(cuda)
    prepared = cuda_graph.prepare("cuda-graph", model, some_inputs(1.0), dtype="float32", cuda=cuda)
    assert cuda.log == ["side waits", "main waits", "record"] and model.calls == cuda_graph.WARM_UPS + 1
    with torch.inference_mode():
        first = prepared.call(*some_inputs(3.0))
        assert first.tolist() == [6.5, 6.5]
        second = prepared.call(*some_inputs(4.0))
    assert second.tolist() == [8.5, 8.5] and second is first and prepared.overwrites
    assert model.calls == cuda_graph.WARM_UPS + 1 and prepared.did["copied_input_bytes"] == 3 * 2 * 4


def test_a_forward_that_cannot_be_recorded_is_a_sentence():
    class Refuses(FakeCuda):
        @contextlib.contextmanager
        def graph(self, graph):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
            yield

    with pytest.raises(MeasurementError, match="cannot be recorded as a CUDA graph: operation not permitted when stream is capturing\\."):
        cuda_graph.prepare("cuda-graph", Doubles(cuda := Refuses()), some_inputs(1.0), dtype="float32", cuda=cuda)


# What is known before anything is tried ---------------------------------------------------------------------------------------------


def test_every_backend_and_number_type_works_somewhere():
    for name in BACKENDS:
        assert any(not why_not(name, dtype, kind) for dtype in DTYPES for kind in ("cpu", "cuda"))
    for dtype in DTYPES:
        assert any(not why_not(name, dtype, kind) for name in BACKENDS for kind in ("cpu", "cuda"))
    assert not any(why_not("eager", dtype, "cpu") for dtype in ("float32", "bfloat16", "float16", "int8"))


@pytest.mark.parametrize(("name", "dtype", "said"), [
    ("cuda-graph", "float32", "records a CUDA graph, and this is a cpu"), ("compile-graph", "float32", "records a CUDA graph"),
    ("eager", "tf32", "tf32 is a format of CUDA's matrix units"), ("compile", "int8", "the backend compile has none here"),
    ("onnxruntime", "bfloat16", "no bfloat16 kernels for the CPU"),
])
def test_what_cannot_work_here_is_refused_with_the_reason_before_the_model_is_touched(name, dtype, said):
    with pytest.raises(MeasurementError, match=said):
        prepare(name, nn.Linear(1, 1), None, dtype=dtype)


def test_an_unknown_name_and_a_missing_package_are_wrong_command_lines(monkeypatch):
    with pytest.raises(UsageError, match="backend is 'tensorrt'; choose one of eager, compile, "):
        prepare("tensorrt", nn.Linear(1, 1), None)
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else object())
    said = 'onnxruntime needs the package onnxscript, which is not installed; run pip install "humar-bench[onnx]".'
    with pytest.raises(UsageError, match=re.escape(said)):
        backends.check_installed("onnxruntime")
    backends.check_installed("openvino")
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs the packages onnx and onnxscript and onnxruntime, which are not installed; run "):
        backends.check_installed("onnxruntime")


def test_asking_what_works_imports_neither_torch_nor_a_runtime():
    script = (
        "import sys; from humar_bench import backends\n"
        "backends.check_installed('eager'); assert backends.why_not('cuda-graph', 'float32', 'cpu')\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'openvino', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
