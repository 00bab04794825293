"""CUDA and NVML against stand-ins that answer as their documentation says, and one real device where there is one."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from humar_bench.devices.opening import open_device
from humar_bench.devices.telemetry import Nvml, clock_reasons
from humar_bench.devices.virtual import VirtualDevice
from humar_bench.errors import UsageError
from tests.devices.stand_ins import MIB, US, fake_cuda, forward


def test_a_cuda_number_that_is_too_high_is_refused_with_the_highest_there_is(monkeypatch):
    fake_cuda(monkeypatch, devices=2)
    with pytest.raises(UsageError, match=r"'cuda:2'.*highest.*cuda:1"):
        open_device("cuda:2")


def test_the_asked_cuda_device_becomes_the_current_one(monkeypatch):
    _, chosen = fake_cuda(monkeypatch)
    opened = open_device("cuda:1")
    assert (opened.name, opened.kind, opened.label, chosen) == ("cuda:1", "cuda", "Fake 1", [1])
    assert opened.telemetry() is None and opened.process_memory_bytes() is None


def test_cuda_times_are_in_seconds_and_its_gate_holds(monkeypatch):
    virtual, _ = fake_cuda(monkeypatch)
    timing = open_device("cuda").time_call(forward(virtual, 100, 2 * US))
    assert timing.device_s == pytest.approx(200 * US)
    assert timing.wall_s == pytest.approx(502 * US)
    assert timing.gate_held is True


def test_without_a_spinning_kernel_the_gate_is_told_to_be_open(monkeypatch):
    virtual, _ = fake_cuda(monkeypatch)
    monkeypatch.delattr(torch.cuda, "_sleep")
    timing = open_device("cuda").time_call(forward(virtual, 100, 2 * US))
    assert timing.gate_held is False and timing.device_s > 400 * US


def test_cuda_memory_is_read_by_its_own_names(monkeypatch):
    fake_cuda(monkeypatch)
    opened = open_device("cuda")
    memory = opened.memory()
    assert (memory.allocated_bytes, memory.requested_bytes, memory.reserved_bytes) == (512, 400, 2 * MIB)
    assert (memory.peak_allocated_bytes, memory.peak_requested_bytes, memory.peak_reserved_bytes) == (1024, 800, 4 * MIB)
    opened.reset_peak_memory()
    assert opened.memory().peak_allocated_bytes == 0


def nvml_library(**answers):
    """A stand-in for pynvml; a name that is not given raises as an unsupported reading does."""
    asked = {
        "nvmlDeviceGetName": b"Fake GPU", "nvmlSystemGetDriverVersion": "550.1", "nvmlDeviceGetClockInfo": 1980,
        "nvmlDeviceGetTemperature": 41, "nvmlDeviceGetPowerUsage": 123_456, "nvmlDeviceGetCurrentClocksEventReasons": 0x4 | 0x1, **answers,
    }
    library = SimpleNamespace(NVML_CLOCK_SM=1, NVML_TEMPERATURE_GPU=0)
    for name, answer in asked.items():
        if answer is not None:
            setattr(library, name, lambda *_, answer=answer: answer)
    return library


def test_telemetry_has_units_and_words():
    read = Nvml(nvml_library(), "handle").read()
    assert read == {
        "name": "Fake GPU", "driver": "550.1", "sm_clock_mhz": 1980, "temperature_c": 41, "power_w": 123.456,
        "throttle_reasons": ["idle", "software power cap"], "throttled": True,
    }


def test_a_reading_the_driver_does_not_support_is_none_and_the_older_name_is_tried():
    library = nvml_library(
        nvmlDeviceGetPowerUsage=None, nvmlDeviceGetCurrentClocksEventReasons=None, nvmlDeviceGetCurrentClocksThrottleReasons=0x1
    )
    read = Nvml(library, "handle").read()
    assert read["power_w"] is None and read["throttle_reasons"] == ["idle"] and read["throttled"] is False
    nothing = Nvml(SimpleNamespace(NVML_CLOCK_SM=1, NVML_TEMPERATURE_GPU=0), "handle").read()
    assert set(nothing.values()) == {None}


def test_energy_is_in_joules_and_none_where_nothing_counts_it(monkeypatch):
    assert Nvml(nvml_library(nvmlDeviceGetTotalEnergyConsumption=1_234_567), "handle").energy_j() == 1234.567
    assert Nvml(nvml_library(), "handle").energy_j() is None  # before Volta, or a slice of a GPU
    assert open_device("cpu").energy_j() is None and VirtualDevice().energy_j() is None
    fake_cuda(monkeypatch)
    assert open_device("cuda").energy_j() is None  # no NVML
    nvml = Nvml(nvml_library(nvmlDeviceGetTotalEnergyConsumption=7000), "handle")
    monkeypatch.setattr(Nvml, "open", classmethod(lambda cls, index, uuid: nvml))
    assert open_device("cuda").energy_j() == 7.0


def test_only_this_process_counts_in_the_drivers_memory():
    processes = [SimpleNamespace(pid=1, usedGpuMemory=7), SimpleNamespace(pid=2, usedGpuMemory=9)]
    nvml = Nvml(nvml_library(nvmlDeviceGetComputeRunningProcesses=processes), "handle")
    assert nvml.process_memory_bytes(2) == 9 and nvml.process_memory_bytes(3) is None


def test_nvml_is_found_by_uuid_then_by_index_and_its_absence_is_no_error(monkeypatch):
    def refuse(*_):
        raise OSError("not here")

    library = SimpleNamespace(nvmlInit=lambda: None, nvmlDeviceGetHandleByUUID=str, nvmlDeviceGetHandleByIndex=int)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert Nvml.open(1, "GPU-7")._handle == "GPU-7"
    library.nvmlDeviceGetHandleByUUID = refuse
    assert Nvml.open(1, "GPU-7")._handle == 1
    library.nvmlInit = refuse
    assert Nvml.open(1, "GPU-7") is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # import fails
    assert Nvml.open(1, "GPU-7") is None


def test_clock_bits_become_words_and_unknown_ones_keep_their_number():
    assert clock_reasons(0) == []
    assert clock_reasons(0x20 | 0x80) == ["software thermal slowdown", "hardware power brake"]
    assert clock_reasons(0x1000) == ["unknown 0x1000"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_cuda_device_holds_its_gate_and_times_a_spin_in_proportion():
    opened = open_device("cuda")
    short, long = (opened.time_call(lambda cycles=cycles: torch.cuda._sleep(cycles)) for cycles in (2_000_000, 4_000_000))
    assert short.gate_held and long.gate_held and 1.8 < long.device_s / short.device_s < 2.2
    opened.reset_peak_memory()
    before = opened.memory()
    held = torch.empty(3 * MIB + 1, dtype=torch.uint8, device=opened.name)
    after = opened.memory()
    assert after.requested_bytes - before.requested_bytes == held.numel()
    assert after.allocated_bytes - before.allocated_bytes == 3 * MIB + 512
