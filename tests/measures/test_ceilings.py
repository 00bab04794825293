"""Ceilings on a virtual device come out as the rates it was given; on the CPU they are of the work they name."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from humar_bench.args import RunArgs
from humar_bench.devices.device import CpuDevice
from humar_bench.devices.opening import open_device
from humar_bench.devices.virtual import VirtualDevice
from humar_bench.errors import MeasurementError, UsageError
from humar_bench.measures import ceilings
from humar_bench.measures.ceilings import CeilingPlan, Work, measure_ceilings, precisions_of
from humar_bench.studies.roofline import worker as ceilings_worker

PLAN = CeilingPlan((64, 128, 256), 2**20, 0.02)
FLOPS_PER_S, BYTES_PER_S, LAUNCH_S, OPERATOR_S = 4e12, 5e10, 2e-6, 6e-6


class VirtualWork(Work):
    """Kernels that take as long as rates say; a small matrix fills half of the device."""

    def matmul(self, precision, size):
        rate = FLOPS_PER_S * (2 if precision == "bfloat16" else 1) * (0.5 if size < 128 else 1)
        return lambda: self.device.launch(2 * size**3 / rate)

    def copy(self, nbytes):
        return lambda: self.device.launch(2 * nbytes / BYTES_PER_S)

    def operator(self):
        return lambda: self.device.launch(1e-7, launch_s=OPERATOR_S)


def found_on(device, dtype="float32", plan=PLAN):
    return measure_ceilings(device, dtype, plan, work=VirtualWork(device))


def test_rates_of_a_virtual_device_are_the_ones_it_was_given():
    found = found_on(VirtualDevice(launch_s=LAUNCH_S), "bfloat16").measured()
    rates = {(each["precision"], each["size"]): each["flops_per_s"] for each in found["matmul"]}
    assert rates[("float32", 256)] == pytest.approx(FLOPS_PER_S) and rates[("float32", 64)] == pytest.approx(FLOPS_PER_S / 2)
    assert rates[("bfloat16", 256)] == pytest.approx(2 * FLOPS_PER_S)
    assert found["copy"]["bytes_per_s"] == pytest.approx(BYTES_PER_S) and found["copy"]["buffer_bytes"] == PLAN.copy_bytes


def test_launching_costs_the_host_what_it_costs_and_is_no_part_of_a_rate():
    slow, quick = (found_on(VirtualDevice(launch_s=launch_s)) for launch_s in (5e-5, 1e-6))
    assert slow.launch.fastest_s == pytest.approx(5e-5, rel=0.01) and quick.launch.fastest_s == pytest.approx(1e-6, rel=0.01)
    assert slow.operator.fastest_s == pytest.approx(OPERATOR_S, rel=0.02)
    assert slow.matmul[-1].pace.fastest_s == pytest.approx(quick.matmul[-1].pace.fastest_s)
    assert slow.matmul[-1].pace.by == "device time" and slow.launch.by == "wall time"


def test_a_gate_that_does_not_hold_leaves_wall_time():
    device = VirtualDevice(launch_s=LAUNCH_S)
    device.hold = lambda seconds: device.launch(0.0)
    assert found_on(device).matmul[-1].pace.by == "wall time"


def test_the_fastest_block_is_the_ceiling_and_a_disturbed_one_is_not():
    device = VirtualDevice(launch_s=LAUNCH_S)
    plain, turns = device.launch, iter(range(10**9))

    def disturbed(kernel_s, **more):
        plain(kernel_s * (3 if next(turns) // 500 % 3 else 1), **more)  # a neighbour, two thirds of the time

    device.launch = disturbed
    found = measure_ceilings(device, plan=dataclasses.replace(PLAN, seconds=0.2), work=VirtualWork(device))
    assert found.copy.fastest_s == pytest.approx(2 * PLAN.copy_bytes / BYTES_PER_S)
    assert found.copy.median_s > 1.5 * found.copy.fastest_s


def test_matrices_that_would_take_too_long_are_left_out():
    plan = CeilingPlan((64, 128, 32768), 2**20, 0.02)
    assert [each.size for each in found_on(VirtualDevice(), plan=plan).matmul] == [64, 128]


def test_a_clock_that_stands_still_is_refused():
    device = CpuDevice()
    device.now_s = lambda: 1.0
    with pytest.raises(MeasurementError, match="its clock cannot time them"):
        ceilings._pace(lambda: None, device, 0.0, 0.0)


def test_number_types_are_float32_and_the_runs_own_and_all_of_them_on_cuda():
    cpu = CpuDevice()
    assert precisions_of(cpu, "float32") == ("float32",) and precisions_of(cpu, "bfloat16") == ("float32", "bfloat16")
    cuda = type("Cuda", (VirtualDevice,), {"kind": "cuda"})()
    assert precisions_of(cuda, "float32") == ("float32", "tf32", "bfloat16", "float16")
    with pytest.raises(UsageError, match="dtype is 'int8'; a matmul rate is measured for float32, tf32"):
        precisions_of(cpu, "int8")


def test_float32_and_tf32_are_set_on_cuda_and_put_back():
    cuda = type("Cuda", (VirtualDevice,), {"kind": "cuda"})()
    before, seen = torch.get_float32_matmul_precision(), {}

    class Watching(VirtualWork):
        def matmul(self, precision, size):
            seen[precision] = torch.get_float32_matmul_precision()
            return super().matmul(precision, size)

    measure_ceilings(cuda, plan=PLAN, work=Watching(cuda))
    assert (seen["float32"], seen["tf32"], seen["float16"]) == ("highest", "high", before)
    assert torch.get_float32_matmul_precision() == before


def test_torch_does_the_work_that_its_names_say():
    work = Work(CpuDevice())
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        product = work.matmul(precision, 8)()
        assert product.shape == (8, 8) and product.dtype == dtype and bool(product.float().abs().sum() > 0)
    copied = work.copy(1000)()
    assert copied.nbytes == 1000 and bool((copied == 1).all())
    assert work.operator()().tolist() == [2.0] * ceilings.TINY and work.launch() is None


def test_a_copy_larger_than_caches_is_planned_everywhere():
    assert CeilingPlan.of(CpuDevice()).copy_bytes >= 2**28 and CeilingPlan.of(VirtualDevice()).copy_bytes >= 2**30


@pytest.fixture
def small_plan(monkeypatch):
    monkeypatch.setattr(CeilingPlan, "of", classmethod(lambda cls, device: CeilingPlan((32, 64), 2**16, 0.005)))


def test_the_worker_answers_with_rates_and_the_threads_that_were_asked(small_plan):
    before = torch.get_num_threads()
    try:
        reply = ceilings_worker.answer({"run": dataclasses.asdict(RunArgs(device="cpu", threads=1, dtype="bfloat16"))})
    finally:
        torch.set_num_threads(before)
    measured = reply["result"]["measured"]
    assert reply["result"]["status"] == "ok" and measured["threads"] == 1 and reply["environment"]["threads"] == 1
    assert {each["precision"] for each in measured["matmul"]} == {"float32", "bfloat16"}
    assert measured["copy"]["bytes_per_s"] > 0 and measured["launch"] is None


def test_what_the_worker_cannot_measure_is_said(small_plan, monkeypatch):
    if not torch.cuda.is_available():
        reply = ceilings_worker.answer({"run": dataclasses.asdict(RunArgs(device="cuda"))})
        assert "finds no CUDA device here" in reply["usage_error"]

    def fails(self, nbytes):
        raise MemoryError

    monkeypatch.setattr(Work, "copy", fails)
    reply = ceilings_worker.answer({"run": dataclasses.asdict(RunArgs(device="cpu"))})
    assert reply["result"]["status"] == "failed" and reply["result"]["kind"] == "out of memory"
    assert open_device("cpu").kind == "cpu"
