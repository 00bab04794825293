"""What only a real CUDA device can prove. Memory is in test_cuda_memory.py; here every test is skipped where there is no device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from statistics import median

import pytest
import torch
from torch.utils._pytree import tree_map_only

from humar_bench.args import ModelArgs, Workload
from humar_bench.devices.opening import open_device
from humar_bench.measures.agreement import agree
from humar_bench.measures.component_time import time_components
from humar_bench.measures.energy import measure_energy, measure_idle
from humar_bench.measures.speed import time_architectures
from humar_bench.measures.speed_sample import TimingPlan
from humar_bench.subjects.registry import build
from humar_bench.subjects.transformer import make_inputs
from tests.models import fill_from_names

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
NAMES = ("original", "original-fused", "efficient")
WORKLOADS = {"tiny": Workload.tiny(), "speed-test": Workload.speed_test(batch=1), "uniphd": Workload.uniphd(batch=1)}


def args_of(work: Workload) -> ModelArgs:
    small = {"hidden_dim": 64, "nheads": 4, "dim_feedforward": 96, "enc_layers": 2, "dec_layers": 2} if work.name == "tiny" else {}
    return ModelArgs(num_queries=work.num_queries, num_feature_levels=len(work.feature_sizes), **small)


def model_of(name: str, work: Workload, device: str = "cuda", dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The same weights on every device; no layer of them is zero."""
    model = build(name, args_of(work), dtype=dtype)
    fill_from_names(model)
    return model.eval().to(device)


def inputs_of(work: Workload, device: str = "cuda", dtype: torch.dtype = torch.float32) -> tuple:
    return tuple(make_inputs(args_of(work), work, device=device, dtype=dtype))


@pytest.fixture(autouse=True)
def _exact_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@contextlib.contextmanager
def no_synchronisation() -> Iterator[None]:
    """Whatever waits for the device in here raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Clocks ---------------------------------------------------------------------------------------------------------------------------


def test_events_and_the_wall_clock_agree_on_work_that_keeps_the_device_busy():
    device, a = open_device("cuda"), torch.randn(4096, 4096, device="cuda")

    def call() -> None:
        for _ in range(20):
            torch.mm(a, a)

    samples = time_architectures({"matmul": call}, device, TimingPlan(min_runs=10, max_runs=10, budget_s=20.0))["matmul"]
    assert not samples.error and all(samples.gate_held)
    assert 0.9 < sorted(samples.wall_s)[5] / sorted(samples.device_s)[5] < 1.1


def test_launching_alone_costs_wall_time_and_next_to_no_device_time():
    device, a = open_device("cuda"), torch.ones(1, device="cuda")
    timing = device.time_call(lambda: [a.add_(1) for _ in range(300)])
    assert timing.gate_held and timing.device_s < timing.wall_s
    assert timing.enqueue_s > 0.5 * timing.wall_s


# Energy ---------------------------------------------------------------------------------------------------------------------------


def test_the_energy_counter_is_there_advances_and_fits_to_the_drivers_power():
    device = open_device("cuda")
    if device.energy_j() is None:
        pytest.skip(f"{device.label} counts no energy")
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    call_s = device.time_call(lambda: torch.mm(a, a), 20).device_s / 20
    idle = measure_idle(device)
    assert 0 < idle.step_s < 0.5 and 5 < idle.power_w < 1000
    found = measure_energy(lambda: torch.mm(a, a), device, idle, call_s, 1)
    power_w = found.joules / found.seconds
    print(f"{device.label}: step {1e3 * idle.step_s:.1f} ms, idle {idle.power_w:.0f} W, busy {power_w:.0f} W, driver {found.power_w} W")
    assert idle.power_w < power_w < 3000 and found.error_share < 0.05
    assert found.power_w is None or 0.5 < power_w / found.power_w < 2


# Outputs --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("work", ["tiny", "speed-test"])
@pytest.mark.parametrize("name", NAMES)
def test_float32_outputs_are_the_cpus(name, work):
    work = WORKLOADS[work]
    with torch.inference_mode():
        expected = model_of(name, work, "cpu")(*inputs_of(work, "cpu"))
        made = tree_map_only(torch.Tensor, torch.Tensor.cpu, model_of(name, work)(*inputs_of(work)))
    found = agree(made, expected, "float32")
    assert not found.fault, found.fault


@pytest.mark.parametrize("work", WORKLOADS.values(), ids=list(WORKLOADS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_fused_originals_kernels_give_the_originals_outputs(work, dtype):
    original, fused = model_of("original", work), model_of("original-fused", work, dtype=dtype)
    fused.load_state_dict(original.state_dict(), strict=True)
    with torch.inference_mode():
        expected = original(*inputs_of(work))
        made = fused(*inputs_of(work, dtype=dtype))
    found = agree(made, expected, str(dtype).removeprefix("torch."))
    assert not found.fault, found.fault


@pytest.mark.parametrize("work", WORKLOADS.values(), ids=list(WORKLOADS))
@pytest.mark.parametrize("name", NAMES)
def test_a_cuda_graph_replays_the_eager_outputs_for_inputs_it_was_not_captured_on(name, work):
    backends = pytest.importorskip("humar_bench.backends")
    model, inputs = model_of(name, work), inputs_of(work)
    others = tuple(make_inputs(args_of(work), work, seed=1, device="cuda"))
    ready = backends.prepare("cuda-graph", model, inputs)
    with torch.inference_mode():
        expected = model(*others)
    found = agree(ready.call(*others), expected, "float32")
    assert not found.fault, found.fault
    assert agree(ready.call(*inputs), expected, "float32").fault  # other inputs give other outputs


# Synchronisations -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("work", WORKLOADS.values(), ids=list(WORKLOADS))
@pytest.mark.parametrize("name", ["original-fused", "efficient"])
def test_a_forward_never_waits_for_the_device(name, work):
    model, inputs = model_of(name, work), inputs_of(work)
    with torch.inference_mode():
        model(*inputs)  # a first call compiles kernels and makes handles
        with no_synchronisation():
            model(*inputs)


def test_the_check_for_synchronisations_can_fail():
    a = torch.ones(1, device="cuda")
    with pytest.raises(RuntimeError, match="synchroniz"), no_synchronisation():
        a.item()


@pytest.mark.parametrize("name", NAMES)
def test_components_add_up_to_the_device_time_of_the_forward_left_alone(name):
    work = WORKLOADS["uniphd"]
    model, inputs = model_of(name, work), inputs_of(work)

    def forward():
        with torch.inference_mode():
            return model(*inputs)

    found = time_components(model, forward, open_device("cuda"), min_rounds=5, max_rounds=5)
    total = median(found.instrumented["device_s"])
    assert set(found.components) >= {"frame", "encoder", "decoder", "heads", "proposals"}
    assert sum(median(times["device_s"]) for times in found.components.values()) == pytest.approx(total, rel=0.1)
    assert median(found.plain["device_s"]) == pytest.approx(total, rel=0.2, abs=1e-4 * found.stamps)


def test_stamps_do_not_wait_for_the_device():
    work = WORKLOADS["tiny"]
    model, inputs = model_of("efficient", work), inputs_of(work)

    def forward():
        with torch.inference_mode(), no_synchronisation():
            return model(*inputs)

    assert time_components(model, forward, open_device("cuda"), max_rounds=2).rounds == 2
