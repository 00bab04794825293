"""Devices: the real CPU's clocks, and the protocol of asynchronous devices on a virtual clock."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from humar_bench.devices import device as device_module
from humar_bench.devices.device import CpuDevice
from humar_bench.devices.opening import open_device
from humar_bench.devices.virtual import EnergyMeter, VirtualDevice
from humar_bench.errors import MeasurementError, UsageError
from tests.devices.stand_ins import MIB, US, fake_cuda, forward

# Opening --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "auto:1", "", "cuda:²"])
def test_an_unknown_device_is_refused_with_its_name_and_the_choices(name):
    with pytest.raises(UsageError, match="choose cpu, cuda, cuda:N or auto") as refusal:
        open_device(name)
    assert repr(name) in str(refusal.value)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3"])
def test_cuda_where_there_is_none_is_refused_in_one_sentence_that_says_what_works(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="--device cpu") as refusal:
        open_device(name)
    assert repr(name) in str(refusal.value) and "\n" not in str(refusal.value)


def test_auto_is_the_cpu_where_there_is_no_cuda_and_cuda_where_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert open_device("auto").kind == open_device().kind == "cpu"
    fake_cuda(monkeypatch)
    assert open_device("auto").name == "cuda:0"


def test_opening_the_cpu_imports_no_torch():
    code = "import sys; from humar_bench.devices.opening import open_device as o; o('cpu'); o('virtual'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_the_cpu_has_clocks_and_no_allocator_nor_telemetry():
    cpu = open_device("cpu")
    timing = cpu.time_call(lambda: sum(range(20_000)))
    assert timing.wall_s > 0 and timing.cpu_s > 0 and timing.device_s is None and timing.telemetry is None
    assert cpu.memory() is None and cpu.telemetry() is None and cpu.process_memory_bytes() is None
    assert cpu.label and cpu.clock_cost_s() > 0


def test_a_cpu_block_makes_exactly_the_calls_it_was_asked_for_and_tells_preemption(monkeypatch):
    made, counts = [], iter([7, 9, 9, 9])
    cpu = CpuDevice()
    monkeypatch.setattr(cpu, "preemptions", lambda: next(counts))
    assert cpu.time_call(lambda: made.append(1), 5).preempted
    assert len(made) == 5
    assert not cpu.time_call(lambda: None).preempted


# The protocol of asynchronous devices ---------------------------------------------------------------------------------------------


def test_the_host_returns_at_once_and_synchronising_waits():
    device = VirtualDevice(launch_s=1 * US)
    device.launch(500 * US)
    assert device.now_s() == pytest.approx(1 * US)
    device.synchronize()
    assert device.now_s() == pytest.approx(501 * US)


def test_wall_time_waits_for_the_work_and_not_for_what_was_queued_before():
    device = VirtualDevice(launch_s=5 * US)
    device.launch(1.0)
    timing = device.time_call(forward(device, 10, 20 * US))
    assert timing.wall_s == pytest.approx(5 * US + 200 * US)  # the first launch, then the kernels run behind each other
    assert timing.cpu_s == pytest.approx(50 * US)


def test_launch_cost_is_in_wall_time_and_not_in_gated_device_time():
    device = VirtualDevice(launch_s=50 * US)
    timing = device.time_call(forward(device, 10, 2 * US))
    assert timing.wall_s == pytest.approx(10 * 50 * US + 2 * US)
    assert timing.device_s == pytest.approx(10 * 2 * US)
    assert timing.gate_held is True


def test_every_call_is_made_once_by_wall_clock_and_once_behind_the_gate():
    device, made = VirtualDevice(), []
    device.time_call(lambda: made.append(1), 3)
    assert len(made) == 6
    device.time_call(lambda: made.append(1), 3, device_time=False)
    assert len(made) == 9


def test_stamps_of_a_stream_hold_the_works_own_time_and_neither_launch_cost_nor_a_wait():
    device, stamps = VirtualDevice(launch_s=100 * US), []

    def run():
        stamps.append(device.stamp())
        for kernel_s in (20 * US, 300 * US):
            device.launch(kernel_s)
            stamps.append(device.stamp())
        stamps.append(device.stamp())
        assert device.now_s() < stamps[-1].at_s, "the host waited"
        return stamps

    spans, held = device.time_stamps(run, launch_s=200 * US)
    assert [span for span, in spans] == pytest.approx([20 * US, 300 * US, 0.0]) and held and device.clocks == ("device_s",)
    slow, stamps = VirtualDevice(launch_s=5e-3), []

    def run_slowly():
        stamps.append(slow.stamp())
        slow.launch(1 * US)
        stamps.append(slow.stamp())
        return stamps

    assert slow.time_stamps(run_slowly)[1] is False  # a launch of 5 ms behind a gate of 0.5 ms that nobody told of it


def test_stamps_of_a_host_are_differences_of_its_two_clocks(monkeypatch):
    device = CpuDevice()
    monkeypatch.setattr(device, "now_s", iter((1.0, 1.5, 4.0)).__next__)
    monkeypatch.setattr(device, "cpu_now_s", iter((10.0, 10.25, 15.0)).__next__)
    assert device.time_stamps(lambda: [device.stamp() for _ in range(3)]) == ([(0.5, 0.25), (2.5, 4.75)], None)
    assert device.clocks == ("wall_s", "cpu_s")


def test_a_hidden_synchronisation_opens_the_gate_and_is_told():
    device = VirtualDevice()

    def synchronising():
        device.launch(20 * US)
        device.synchronize()
        device.launch(20 * US)

    assert device.time_call(synchronising).gate_held is False


def test_more_launches_than_the_queue_holds_are_told():
    deep, shallow = VirtualDevice(queue_depth=1000), VirtualDevice(queue_depth=50)
    assert deep.time_call(forward(deep, 200, 2 * US)).gate_held is True
    assert shallow.time_call(forward(shallow, 200, 2 * US)).gate_held is False


def test_work_on_another_stream_is_in_wall_time_and_told_as_stray():
    device = VirtualDevice(launch_s=0)

    def astray():
        device.launch(10 * US)
        device.launch(300 * US, stream="side")

    timing = device.time_call(astray)
    assert timing.wall_s == pytest.approx(300 * US)
    assert timing.stray_s == pytest.approx(290 * US)
    clean = device.time_call(forward(device))
    assert clean.stray_s == pytest.approx(0)


def test_preemption_is_told_and_costs_no_cpu_time():
    device = VirtualDevice(launch_s=1 * US)
    disturbed = device.time_call(lambda: (device.launch(1 * US), device.preempt(0.01)), device_time=False)
    assert disturbed.preempted and disturbed.wall_s > 0.01 and disturbed.cpu_s == pytest.approx(1 * US)
    assert not device.time_call(forward(device)).preempted


def test_the_driver_is_read_while_the_gated_work_runs_and_costs_neither_time():
    device = VirtualDevice(launch_s=1 * US)
    read_at = []

    def slow_driver(now_s):
        read_at.append(now_s)
        device.host(0.005)
        return {"sm_clock_mhz": 1980}

    device.feed = slow_driver
    timing = device.time_call(forward(device), telemetry=True)
    assert timing.telemetry == {"sm_clock_mhz": 1980}
    assert timing.device_s == pytest.approx(200 * US) and timing.wall_s == pytest.approx(201 * US)
    assert read_at[0] < device.now_s() and device.time_call(forward(device)).telemetry is None and len(read_at) == 1


def test_an_event_that_has_not_passed_cannot_be_read():
    device = VirtualDevice()
    device.launch(1.0)
    start, end = device.record_event(), device.record_event()
    with pytest.raises(RuntimeError, match="before the device had passed it"):
        device.elapsed_s(start, end)


def test_the_clock_cost_of_a_device_with_events_is_at_least_their_resolution():
    assert VirtualDevice(clock_read_s=0).clock_cost_s() == device_module.EVENT_RESOLUTION_S
    assert VirtualDevice(clock_read_s=4 * US).clock_cost_s() == pytest.approx(4 * US)


# The allocator --------------------------------------------------------------------------------------------------------------------


def test_blocks_are_rounded_to_512_bytes_and_segments_to_2_mib():
    device = VirtualDevice()
    device.allocator.allocate(1)
    device.allocator.allocate(513)
    now = device.memory()
    assert (now.allocated_bytes, now.requested_bytes, now.reserved_bytes) == (512 + 1024, 514, 2 * MIB)
    device.allocator.allocate(3 * MIB)
    assert device.memory().reserved_bytes == 2 * MIB + 4 * MIB
    device.allocator.allocate(0)
    assert device.memory().allocated_bytes == 512 + 1024 + 3 * MIB


def test_the_peak_is_kept_until_it_is_reset_to_what_is_alive():
    device = VirtualDevice()
    weights, activation = device.allocator.allocate(4 * MIB), device.allocator.allocate(10 * MIB)
    device.allocator.free(activation)
    assert device.memory().peak_allocated_bytes == 14 * MIB
    device.reset_peak_memory()
    assert device.memory().peak_allocated_bytes == device.memory().allocated_bytes == 4 * MIB
    device.allocator.free(weights)
    assert device.memory().peak_requested_bytes == 4 * MIB and device.memory().requested_bytes == 0


def test_freed_memory_stays_reserved_is_used_again_and_is_released_on_request():
    device = VirtualDevice()
    first, second = device.allocator.allocate(5 * MIB), device.allocator.allocate(MIB // 2)
    device.allocator.free(first)
    assert device.memory().reserved_bytes == 8 * MIB and device.process_memory_bytes() == 8 * MIB
    device.allocator.allocate(6 * MIB)
    assert device.memory().reserved_bytes == 8 * MIB
    device.allocator.free(second)
    device.release_cache()
    assert device.memory().reserved_bytes == 6 * MIB


def test_freed_neighbours_grow_together_and_small_blocks_never_use_large_segments():
    allocator = VirtualDevice().allocator
    halves = [allocator.allocate(MIB) for _ in range(2)]
    large = allocator.allocate(2 * MIB)
    for handle in (*halves, large):
        allocator.free(handle)
    quarters = [allocator.allocate(MIB // 4) for _ in range(8)]  # they fill the one small segment
    assert allocator.memory().reserved_bytes == 4 * MIB
    allocator.allocate(MIB // 4)
    assert allocator.memory().reserved_bytes == 6 * MIB
    with pytest.raises(KeyError):
        allocator.free(quarters[0]), allocator.free(quarters[0])


# Meters and clocks that cannot be trusted -------------------------------------------------------------------------------------------


def test_a_virtual_meter_stands_still_between_updates_and_counts_overlapping_streams_once():
    device = VirtualDevice(launch_s=0, meter=EnergyMeter(0.1, idle_w=10, busy_w=110, start_j=0), meter_read_s=0)
    device.launch(0.05)
    device.launch(0.05, stream="side")
    device.host(0.09)
    assert device.energy_j() == 0
    device.host(0.02)
    assert device.energy_j() == pytest.approx(0.1 * 10 + 0.05 * 100)
    device.launch(1.0)
    device.host(0.5)
    assert device.energy_j() == pytest.approx(0.6 * 10 + (0.05 + 0.49) * 100)


def test_a_device_that_is_busy_when_its_clock_is_read_is_found_out(monkeypatch):
    device = VirtualDevice()
    device.launch(10e-3)
    monkeypatch.setattr(VirtualDevice, "synchronize", lambda self: None)
    with pytest.raises(MeasurementError, match="still busy before it was timed"):
        device.time_call(forward(device))
    device = VirtualDevice()
    with pytest.raises(MeasurementError, match="still busy after it was timed"):
        device.time_call(lambda: device.launch(10e-3, stream="side"))


def test_a_wall_clock_that_moves_in_milliseconds_is_refused():
    assert VirtualDevice(tick_s=1e-6).clock_step_s() == 0.0  # it never moves while nobody works
    assert VirtualDevice(tick_s=1e-6, clock_read_s=1e-7).clock_step_s() == pytest.approx(1e-6)
    with pytest.raises(MeasurementError, match="moves in steps of 1 ms"):
        VirtualDevice(tick_s=1e-3, clock_read_s=1e-6).clock_cost_s()
    assert open_device("cpu").clock_step_s() < 1e-5


def test_one_reading_of_the_clock_that_came_late_does_not_make_it_coarse(monkeypatch):
    """A process that loses its core between two readings sees 4 ms pass at once."""
    cpu = open_device("cpu")
    late = iter([0.0, 4.1e-3, *(4.1e-3 + 1e-7 * number for number in range(1, 10_000))])
    monkeypatch.setattr(cpu, "now_s", lambda: next(late))
    assert cpu.clock_step_s() == pytest.approx(1e-7) and cpu.clock_cost_s() < 1e-5
