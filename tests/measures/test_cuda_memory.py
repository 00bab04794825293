"""Memory on a real CUDA device, to the byte: planted tensors, prediction against allocator, and any order of architectures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from humar_bench.args import RunArgs, Workload
from humar_bench.devices.opening import open_device
from humar_bench.measures.memory import Memory, measure_memory
from humar_bench.running.bench import benchmark

MIB = 2**20
ROUNDED = 512  # bytes; torch's allocator hands out multiples of it
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class Planted(nn.Module):
    """Elementwise work only, which needs no library's workspace, beside a tensor of `planted` bytes that lives through it."""

    def __init__(self, planted: int) -> None:
        super().__init__()
        self.planted = planted
        self.scale = nn.Parameter(torch.full((1,), 2.0, device="cuda"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held = torch.empty(self.planted, dtype=torch.uint8, device=x.device)
        doubled = x * self.scale
        summed = torch.cat([x, doubled]).relu()
        return summed[: held.numel() or 1]


def measured(planted: int) -> Memory:
    device = open_device("cuda")
    device.release_cache()
    return measure_memory(lambda: Planted(planted), lambda: (torch.ones(3 * MIB // 4, device="cuda"),), device)


@pytest.mark.parametrize("planted", [1 * MIB, 10 * MIB, 100 * MIB, 10 * MIB + 1])
def test_a_planted_tensor_raises_the_peak_by_exactly_its_bytes(planted):
    without, with_it = measured(0), measured(planted)
    assert with_it.cuda.peak_requested_bytes - without.cuda.peak_requested_bytes == planted
    rounded = -(-planted // ROUNDED) * ROUNDED
    assert with_it.cuda.peak_allocated_bytes - without.cuda.peak_allocated_bytes == rounded
    assert with_it.predicted_bytes - without.predicted_bytes == planted


def test_the_prediction_without_a_run_is_the_allocators_peak():
    memory = measured(10 * MIB)
    assert memory.predicted_bytes == memory.allocator_bytes and memory.difference_bytes == 0


@pytest.mark.parametrize("name", ["original", "efficient"])
def test_the_prediction_for_an_architecture_is_the_allocators_peak_but_for_what_libraries_take_inside_an_operator(name, tiny_args):
    run = benchmark([name], tiny_args, Workload.tiny(), ["memory"], RunArgs(device="cuda"))
    [record] = run
    assert record.ok, record.reason
    difference, peak = record.measured["difference_bytes"], record.measured["allocator_bytes"]
    assert abs(difference) <= 0.05 * peak + 8 * MIB, f"{name}: predicted {record.measured['predicted_bytes']}, allocator {peak}"


def test_a_then_b_is_b_then_a_is_alone_to_the_byte(tiny_args):
    def peaks(*names: str) -> dict[str, dict]:
        run = benchmark(list(names), tiny_args, Workload.tiny(), ["memory"], RunArgs(device="cuda"))
        assert not run.failed, [record.reason for record in run.failed]
        return {record.architecture: {key: record.measured["cuda"][f"peak_{key}_bytes"] for key in ("allocated", "requested", "reserved")}
                for record in run}

    forward, backward = peaks("original", "efficient"), peaks("efficient", "original")
    assert forward == backward and peaks("efficient")["efficient"] == forward["efficient"]
