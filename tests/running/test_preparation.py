"""Between building and timing: the backend of every arm, number formats, and what one architecture leaves in memory."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch

from humar_bench import backends
from humar_bench.args import RunArgs, Workload
from humar_bench.devices.device import CpuDevice
from humar_bench.devices.virtual import VirtualDevice
from humar_bench.errors import MeasurementError
from humar_bench.measures.footprint import Footprint
from humar_bench.records.contradictions import contradictions
from humar_bench.records.record import plain
from humar_bench.running import preparation
from humar_bench.running.preparation import missing_instructions, set_formats
from humar_bench.running.speed_worker import measure_fps
from humar_bench.running.task import Task
from humar_bench.subjects.registry import parse_architectures

MIB = 2**20
PLAN = {"min_runs": 3, "max_runs": 3, "budget_s": 0.1, "warmup_max_s": 0.1, "warmup_window_s": 0.01}


def a_task(args, names=("efficient",), **run) -> Task:
    return Task(
        "fps", parse_architectures(names), args, Workload.tiny(), RunArgs(device="cpu", threads=1, processes=1, **run), plan=dict(PLAN)
    )


def test_one_architecture_alone_is_timed_through_its_backend_and_says_what_it_left_in_memory(tiny_args):
    [result] = measure_fps(a_task(tiny_args, dtype="int8"), CpuDevice()).values()
    assert result["status"] == "ok", result["reason"]
    measured = plain(result["measured"])
    assert measured["backend"]["name"] == "eager" and measured["backend"]["int8_layers"] > 0 and measured["backend"]["prepare_s"] > 0
    assert measured["footprint"]["peak_bytes"] > 0 and measured["footprint"]["of"].startswith("resident set")
    assert measured["agreement"]["checked"] == "before and after" and 0 < measured["agreement"]["max_error"] < 0.3
    assert len(measured["wall_s"]) == 3 and result["built"]["hidden_dim"] == tiny_args.hidden_dim
    assert contradictions("fps", measured, dataclasses.asdict(Workload.tiny())) == []


def test_a_backend_that_cannot_run_one_architecture_is_its_failure_and_the_other_goes_on(tiny_args, monkeypatch):
    real, asked = backends.prepare, []

    def prepare(name, model, inputs, *, dtype):
        asked.append((name, dtype))
        if type(model.encoder).__module__.startswith("baselines"):
            raise MeasurementError("this backend has no such operator.")
        return real("eager", model, inputs, dtype=dtype)

    monkeypatch.setattr(preparation.backends, "prepare", prepare)
    results = measure_fps(a_task(tiny_args, ("original", "efficient"), backend="openvino"), CpuDevice())
    assert asked == [("openvino", "float32")] * 2, "both arms through the same backend and number type"
    assert (results["original"]["kind"], results["original"]["reason"]) == ("error", "this backend has no such operator.")
    assert results["efficient"]["status"] == "ok" and results["efficient"]["measured"]["backend"]["name"] == "openvino"
    assert results["efficient"]["measured"]["footprint"] is None, "two architectures were asked for: memory is nobody's own"


def test_outputs_of_a_backend_that_are_wrong_are_a_failure(tiny_args, monkeypatch):
    def prepare(name, model, inputs, *, dtype):
        return backends.Prepared(lambda *given: (*(outputs := model(*given))[:3], outputs[3] * 1.01, outputs[4]))

    monkeypatch.setattr(preparation.backends, "prepare", prepare)
    [result] = measure_fps(a_task(tiny_args), CpuDevice()).values()
    assert "differ from a float32 eager forward of the same weights: mix_embedding" in result["reason"]


def test_outputs_that_the_next_call_overwrites_are_not_taken_for_changed_ones(tiny_args, monkeypatch):
    """Of a slow forward too, whose outputs are kept from other forwards where they may be."""
    held = []

    def prepare(name, model, inputs, *, dtype):
        def call(*given):
            outputs = model(*given)
            if not held:
                held.append(outputs)
            for mine, new in zip(torch.utils._pytree.tree_leaves(held[0]), torch.utils._pytree.tree_leaves(outputs), strict=True):
                mine.copy_(new)
            return held[0]

        return backends.Prepared(call, overwrites=True)

    monkeypatch.setattr(preparation.backends, "prepare", prepare)
    monkeypatch.setattr("humar_bench.running.arm.SLOW_S", 0.0)
    [result] = measure_fps(a_task(tiny_args), CpuDevice()).values()
    assert result["status"] == "ok", result["reason"]


def test_tf32_is_allowed_in_every_product_of_the_process_and_float32_changes_nothing():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    set_formats("float32")
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    try:
        torch.backends.cudnn.allow_tf32 = False
        set_formats("tf32")
        assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_a_number_type_that_the_cpu_has_no_instructions_for_is_said(monkeypatch):
    assert missing_instructions("float32", "cpu") == missing_instructions("int8", "cpu") == missing_instructions("bfloat16", "cuda") == ""
    for supported in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda supported=supported: supported)
        assert ("has no bfloat16 instructions" in missing_instructions("bfloat16", "cpu")) is not supported


def test_tf32_and_int8_are_held_in_float32(tiny_args):
    assert [a_task(tiny_args, dtype=each).dtype for each in ("float32", "tf32", "int8", "float16")] == [torch.float32] * 3 + [torch.float16]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the kernel's figures of Linux")
def test_the_footprint_is_the_peak_after_preparing_above_what_was_there_before():
    footprint = Footprint(CpuDevice())
    kept = torch.ones(32 * MIB // 4)
    large = torch.ones(192 * MIB // 4)  # preparing may need much, and gives it back
    del large
    footprint.prepared()
    passing = torch.ones(64 * MIB // 4)
    del passing
    footprint.read()
    found = footprint.measured()
    assert 30 * MIB < found["prepared_bytes"] < 60 * MIB and kept.numel()
    assert 94 * MIB < found["peak_bytes"] < 130 * MIB


def test_on_a_device_the_footprint_is_its_allocators_peak():
    device = VirtualDevice()
    before = device.allocator.allocate(10 * MIB)
    footprint = Footprint(device)
    device.allocator.allocate(5 * MIB)
    device.allocator.free(device.allocator.allocate(50 * MIB))
    footprint.prepared()
    device.allocator.free(device.allocator.allocate(7 * MIB))
    footprint.read()
    assert before is not None
    assert (footprint.prepared_bytes, footprint.peak_bytes) == (5 * MIB, 12 * MIB)
    assert footprint.measured()["of"] == "torch's allocator on the device"


def test_a_rehearsal_prepares_a_small_model_and_leaves_nothing_behind(monkeypatch):
    seen = []
    real = backends.prepare
    monkeypatch.setattr(backends, "prepare", lambda name, model, inputs: seen.append(name) or real("eager", model, inputs))
    backends.rehearse("openvino")
    assert seen == ["openvino"]
