"""What the harness adds to what it measures: clocks read per sample, and a parent that sleeps while its child works."""

from __future__ import annotations

import select
import sys
import time
from pathlib import Path

import pytest

from humar_bench.devices.device import Device
from humar_bench.devices.virtual import VirtualDevice
from humar_bench.measures.speed import time_architectures
from humar_bench.measures.speed_sample import TimingPlan
from humar_bench.running import children
from humar_bench.running.children import LOOK_EVERY_S, Child, run_children

WORKER = (sys.executable, str(Path(__file__).parents[1] / "data" / "fake_worker.py"))
MOST_READS = 12  # of any clock, for one sample: a block's two ends on wall and CPU clock, the stream's end, the budget


class Counting(VirtualDevice):
    """Counts how often a clock is read, and how often inside a block."""

    def __init__(self, kind: str, **more) -> None:
        super().__init__(**more)
        self.kind, self.reads = kind, 0

    def now_s(self) -> float:
        self.reads += 1
        return super().now_s()

    def cpu_now_s(self) -> float:
        self.reads += 1
        return super().cpu_now_s()

    def time_call(self, call, calls=1, **more):
        return Device.time_call(self, call, calls) if self.kind == "cpu" else super().time_call(call, calls, **more)

    def clock_cost_s(self) -> float:
        return Device.clock_cost_s(self)


def reads(kind: str, rounds: int, calls_each: int = 1) -> tuple[int, int]:
    """Clock reads of a whole timing, and the samples it kept."""
    device = Counting(kind, clock_read_s=1e-7)
    work = (lambda: device.host(3e-3 / calls_each)) if kind == "cpu" else (lambda: device.launch(3e-3 / calls_each))
    plan = TimingPlan(min_runs=rounds, max_runs=rounds, budget_s=1e9, warmup_window_s=0.0)
    samples = time_architectures({"a": work, "b": work}, device, plan)
    return device.reads, sum(len(sample.wall_s) for sample in samples.values())


@pytest.mark.parametrize("kind", ["cpu", "virtual"])
@pytest.mark.parametrize("calls_each", [1, 1000])
def test_clocks_are_read_a_bounded_number_of_times_a_sample_however_many_calls_are_in_it(kind, calls_each):
    (few, some), (many, more) = reads(kind, 10, calls_each), reads(kind, 110, calls_each)
    assert more - some == 200
    assert 0 < many - few <= MOST_READS * (more - some)


def test_reading_the_clocks_costs_at_most_a_ten_thousandth_of_a_sample():
    device = Counting("cpu", clock_read_s=1e-6)
    sample = time_architectures({"a": lambda: device.host(1e-5)}, device, TimingPlan(min_runs=5, max_runs=5, budget_s=1e9))["a"]
    assert sample.calls_per_block >= 100
    assert all(each <= 1e-5 * (1 + 1.01e-4) for each in sample.wall_s)  # what the clocks add is 0.1 % many times over


def test_the_parent_sleeps_in_one_place_and_wakes_at_most_once_a_second(monkeypatch):
    """A child that says nothing for two seconds: no polling, whatever this machine is busy with."""
    waits = []

    class Waiting:
        @staticmethod
        def select(reading, writing, failing, timeout_s):
            if timeout_s:
                waits.append(timeout_s)
            return select.select(reading, writing, failing, timeout_s)

    monkeypatch.setattr(children, "select", Waiting)
    request = {"architectures": [{"name": "hangs", "spec": "x:hangs", "foreign": True}], "process": 0, "plan": {}}
    begun_s = time.process_time()
    child = Child(request, timeout_s=2.0, hear=lambda event: None, names=("hangs",), command=WORKER)
    [(_, outcome)] = run_children([(0, child)], at_once=1)
    assert outcome.kind == "timeout" and LOOK_EVERY_S >= 1
    assert len(waits) <= 5 + 2.0 / LOOK_EVERY_S  # its start, what it says, its end, and once a second
    assert time.process_time() - begun_s < 0.5 * 2.0  # a loop that polls would take all of it; starting a process takes a little
