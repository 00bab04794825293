"""Energy on a virtual device: windows long enough for the counter's step, ends that are changes of it, and counters that misbehave."""

from __future__ import annotations

import math

import pytest

from humar_bench.devices.device import CpuDevice
from humar_bench.devices.virtual import EnergyMeter, VirtualDevice
from humar_bench.errors import MeasurementError
from humar_bench.measures.energy import WINDOW_STEPS, Energy, Idle, measure_energies, measure_energy, measure_idle

MS = 1e-3


def forward(device, seconds, kernels=4):
    return lambda: [device.launch(seconds / kernels) for _ in range(kernels)]


def window(device, call_s, *, batch=2, call=None) -> Energy:
    return measure_energy(call or forward(device, call_s), device, measure_idle(device), call_s, batch)


# What a window says ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("update_s", [1 * MS, 20 * MS, 100 * MS])
@pytest.mark.parametrize("call_s", [0.3 * MS, 8 * MS, 130 * MS])
def test_joules_per_image_are_power_times_time_whatever_the_step_and_the_forward(update_s, call_s):
    device = VirtualDevice(meter=EnergyMeter(update_s, idle_w=100, busy_w=500))
    found = window(device, call_s, batch=2)
    assert found.step_s == pytest.approx(update_s, rel=0.05) and found.idle_w == pytest.approx(100, rel=0.01)
    true_j = 500 * call_s / 2
    assert abs(found.per_image_j / true_j - 1) <= found.error_share
    assert found.above_idle_j == pytest.approx(400 * call_s / 2, rel=1.5 * found.error_share)
    assert found.images == pytest.approx(2 * found.seconds / call_s, rel=found.error_share)


@pytest.mark.parametrize("update_s", [20 * MS, 100 * MS])
def test_a_window_lasts_a_second_and_fifty_steps_so_that_one_is_two_percent_of_it(update_s):
    device = VirtualDevice(meter=EnergyMeter(update_s))
    found = window(device, 2 * MS)
    assert found.seconds == pytest.approx(max(1.0, WINDOW_STEPS * update_s), rel=0.05)
    assert found.step_s / found.seconds <= 0.02 * 1.01 and found.error_share < 0.025


def test_without_aligned_ends_a_window_of_the_same_length_would_be_wrong_by_more():
    """What the protocol buys: two blind readings around the same work miss up to a step at each end."""
    errors = []
    for offset_s in (0.0, 35 * MS, 65 * MS, 95 * MS):
        device = VirtualDevice(meter=EnergyMeter(100 * MS, idle_w=1, busy_w=500))
        device.host(offset_s)
        before = device.energy_j()
        start_s = device.now_s()
        while device.now_s() - start_s < 0.25:
            forward(device, 2 * MS)()
            device.synchronize()
        errors.append(abs((device.energy_j() - before) / (500 * (device.now_s() - start_s)) - 1))
    aligned = VirtualDevice(meter=EnergyMeter(100 * MS, idle_w=1, busy_w=500))
    assert max(errors) > 0.15 > 100 * abs(window(aligned, 2 * MS, batch=1).per_image_j / (500 * 2 * MS) - 1)


def test_the_device_never_runs_dry_and_the_queue_stays_short():
    device = VirtualDevice(launch_s=1e-6, meter=EnergyMeter(20 * MS))
    most, call = [0], forward(device, 1 * MS, kernels=5)

    def counted():
        call()
        most[0] = max(most[0], sum(end_s > device.now_s() for end_s in device._pending))

    found = window(device, 1 * MS, batch=1, call=counted)
    assert found.joules / found.seconds == pytest.approx(500, rel=0.01)  # busy all the time
    assert most[0] <= 5 * 2 * 2  # two batches of forwards of at most a twentieth of a step each


def test_a_model_that_waits_for_the_host_draws_idle_power_meanwhile():
    device = VirtualDevice(launch_s=0, meter=EnergyMeter(20 * MS, idle_w=100, busy_w=500))

    def launch_bound():
        device.host(3 * MS)
        device.launch(1 * MS)

    found = window(device, 3 * MS, batch=1, call=launch_bound)
    assert found.per_image_j == pytest.approx(100 * 3 * MS + 400 * 1 * MS, rel=0.02)


def test_the_drivers_power_is_read_while_the_device_still_works():
    device = VirtualDevice(meter=EnergyMeter(20 * MS))
    device.feed = lambda now_s: {"power_w": 100.0 if device.idle() else 500.0}
    assert window(device, 2 * MS).power_w == 500.0
    device.feed = None
    assert window(device, 2 * MS).power_w is None


def test_a_forward_longer_than_the_window_allows_says_so_in_its_error():
    found = window(VirtualDevice(meter=EnergyMeter(100 * MS)), 2.0)
    assert 10 <= found.seconds < 16 and found.error_share > 0.1


# Counters that misbehave ----------------------------------------------------------------------------------------------------------


def test_a_counter_that_never_advances_is_one_sentence_for_every_architecture():
    device = VirtualDevice(meter=EnergyMeter(None))
    with pytest.raises(MeasurementError, match="did not advance within 2 s"):
        measure_idle(device)
    found = measure_energies({"a": forward(device, MS), "b": forward(device, MS)}, device, {"a": MS, "b": MS}, 1)
    assert found == {name: {"reason": "the energy counter did not advance within 2 s; no energy is reported."} for name in "ab"}


def test_a_counter_that_stands_still_under_load_is_no_energy():
    class Frozen(EnergyMeter):
        def read_j(self, now_s):
            return super().read_j(min(now_s, 1.8))

    device = VirtualDevice(meter=Frozen(20 * MS))
    with pytest.raises(MeasurementError, match="did not advance within 2 s"):
        window(device, 2 * MS)
    assert device.idle()


def test_a_counter_that_starts_again_from_zero_is_no_energy():
    wrapping = EnergyMeter(20 * MS, start_j=0, wraps_at_j=400.0)
    device = VirtualDevice(meter=wrapping)
    with pytest.raises(MeasurementError, match="ran backwards, from"):
        window(device, 2 * MS)
    assert device.idle()


def test_a_driver_that_stops_answering_is_no_energy(monkeypatch):
    device = VirtualDevice(meter=EnergyMeter(20 * MS))
    monkeypatch.setattr(EnergyMeter, "read_j", lambda self, now_s: None if now_s > 1.3 else math.floor(now_s / 0.02))
    with pytest.raises(MeasurementError, match="stopped answering"):
        window(device, 2 * MS)


def test_an_architecture_that_raises_has_a_reason_and_the_next_one_its_energy():
    device = VirtualDevice(meter=EnergyMeter(20 * MS))

    def bad():
        raise ValueError("no\nmore")

    told = []
    found = measure_energies({"bad": bad, "good": forward(device, MS)}, device, {"bad": MS, "good": MS}, 2, told.append)
    assert found["bad"] == {"reason": "bad raised ValueError: no"} and told == ["bad", "good"]
    assert found["good"]["reason"] == "" and found["good"]["per_image_j"] == pytest.approx(0.25, rel=0.02)


def test_nothing_is_measured_where_nothing_counts_energy():
    assert measure_energies({"a": print}, CpuDevice(), {"a": MS}, 1) == {}
    assert measure_energies({"a": print}, VirtualDevice(), {"a": MS}, 1) == {}


def test_the_idle_device_is_watched_for_half_a_second_after_it_has_settled():
    device = VirtualDevice(meter=EnergyMeter(20 * MS, idle_w=70, busy_w=700))
    device.launch(0.2)
    idle = measure_idle(device)
    assert idle == Idle(pytest.approx(20 * MS, rel=0.01), pytest.approx(70, rel=0.01))
    assert 1.2 < device.now_s() < 1.3
