"""Speed: rounds, warm-up, blocks and failures, all on a virtual clock; nothing here measures real time."""

from __future__ import annotations

import gc
import json
from collections import Counter

import pytest

from humar_bench.devices.device import Device
from humar_bench.devices.virtual import VirtualDevice
from humar_bench.errors import UsageError
from humar_bench.measures.speed import Varied, time_architectures
from humar_bench.measures.speed_sample import SpeedSample, TimingPlan

MS = 1e-3
US = 1e-6


class VirtualCpu(VirtualDevice):
    """A virtual device without a stream: what the host does is all there is."""

    kind = "cpu"
    clocks = Device.clocks

    def time_call(self, call, calls=1, *, device_time=True, telemetry=False):
        return Device.time_call(self, call, calls)

    def stamp(self):
        return Device.stamp(self)

    def time_stamps(self, run, launch_s=0.0):
        return Device.time_stamps(self, run)

    def clock_cost_s(self):
        return Device.clock_cost_s(self)


class Model:
    """A forward of one kernel whose time is a function of how often it was called; it logs who ran and when."""

    def __init__(self, device, seconds, log=None, name="", after=None):
        self.device, self.seconds, self.log, self.name, self.after = device, seconds, log, name, after
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.log is not None:
            self.log.append(self.name)
        if self.after is not None and self.calls > self.after[0]:
            raise self.after[1]
        seconds = self.seconds(self.calls) if callable(self.seconds) else self.seconds
        if self.device.kind == "cpu":
            self.device.host(seconds)
        else:
            self.device.launch(seconds)


SHORT = TimingPlan(min_runs=4, max_runs=4, budget_s=1e9, warmup_window_s=0.0)


# Values ---------------------------------------------------------------------------------------------------------------------------


def test_values_are_seconds_per_forward_by_wall_cpu_and_device_clock():
    device = VirtualDevice(launch_s=100 * US)
    sample = time_architectures({"a": Model(device, 20 * MS)}, device, SHORT)["a"]
    assert sample.wall_s == pytest.approx([20.1 * MS] * 4)
    assert sample.device_s == pytest.approx([20 * MS] * 4)
    assert sample.cpu_s == pytest.approx([0.1 * MS] * 4)
    assert sample.preempted == [False] * 4 and sample.gate_held == [True] * 4 and sample.rounds == 4


def test_a_block_of_many_forwards_still_gives_the_time_of_one():
    device = VirtualDevice(launch_s=1 * US, clock_read_s=1 * US)
    sample = time_architectures({"a": Model(device, 100 * US)}, device, SHORT)["a"]
    assert sample.calls_per_block == 98  # 1 us of clock is 1e-4 of 10 ms, and this clock reads 103 us for one forward
    assert sample.device_s == pytest.approx([100 * US] * 4)
    assert sample.wall_s == pytest.approx([100 * US] * 4, rel=1e-3)


def test_a_forward_of_some_milliseconds_is_a_block_of_its_own():
    device = VirtualCpu(clock_read_s=0.2 * US)
    samples = time_architectures({"long": Model(device, 3 * MS), "short": Model(device, 0.5 * MS)}, device, SHORT)
    assert samples["long"].calls_per_block == 1
    assert samples["short"].calls_per_block == 4


def test_architectures_of_about_the_same_speed_have_blocks_of_the_same_length():
    device = VirtualCpu(clock_read_s=0.2 * US)
    calls = {"a": Model(device, 0.5 * MS), "b": Model(device, 0.8 * MS), "slow": Model(device, 20 * MS)}
    alone = {name: time_architectures({name: call}, device, SHORT)[name].calls_per_block for name, call in calls.items()}
    assert alone["a"] > alone["b"] > 2 * alone["slow"], "else there is nothing to even out"
    together = {name: sample.calls_per_block for name, sample in time_architectures(calls, device, SHORT).items()}
    assert together == {"a": alone["a"], "b": alone["a"], "slow": 1}


@pytest.mark.parametrize("forward_s", [1e-7, 3e-6, 1e-4, 0.7e-3, 5e-3, 2.0])
def test_reading_the_clocks_costs_at_most_its_share_of_a_block(forward_s):
    device = VirtualCpu(clock_read_s=0.3 * US)
    sample = time_architectures({"a": Model(device, forward_s)}, device, TimingPlan(min_runs=2, max_runs=2, warmup_window_s=0.01))["a"]
    assert 0.3 * US <= 1.01e-4 * sample.calls_per_block * forward_s
    assert sample.calls_per_block == 1 or (sample.calls_per_block - 1) * forward_s * 1e-4 < 0.3 * US * 1.01


def test_a_device_without_events_has_no_device_times():
    device = VirtualCpu()
    sample = time_architectures({"a": Model(device, 4 * MS)}, device, SHORT)["a"]
    assert sample.device_s is sample.gate_held is sample.stray_s is sample.telemetry is None
    assert sample.cpu_s == sample.wall_s == pytest.approx([4 * MS] * 4)


def test_the_measured_values_are_plain_and_named_as_in_the_record():
    device = VirtualDevice(feed={"sm_clock_mhz": 1980})
    plain = time_architectures({"a": Model(device, 4 * MS)}, device, SHORT)["a"].measured()
    wanted = {"wall_s", "cpu_s", "device_s", "preempted", "first_call_s", "warmup_runs", "steady", "calls_per_block", "order_seed"}
    assert wanted <= plain.keys() and "error" not in plain and "telemetry" not in plain
    assert json.loads(json.dumps(plain))["round_telemetry"] == [{"sm_clock_mhz": 1980}] * 4


def test_a_preempted_round_is_marked_and_no_other():
    device = VirtualDevice(launch_s=0)
    calls = iter(range(1000))

    def forward():
        device.launch(10 * MS)
        if next(calls) == 7:  # 1 first call, 2 windows of 1 call; then a wall and a gated call a round
            device.preempt(MS)

    assert time_architectures({"a": forward}, device, SHORT)["a"].preempted == [False, False, True, False]


# Rounds ---------------------------------------------------------------------------------------------------------------------------


def test_every_architecture_runs_once_a_round_in_changing_order():
    device, log = VirtualCpu(), []
    models = {name: Model(device, 10 * MS, log, name) for name in "abc"}
    time_architectures(models, device, TimingPlan(min_runs=40, max_runs=40, warmup_window_s=0.0))
    timed = log[-120:]
    rounds = [tuple(timed[at : at + 3]) for at in range(0, 120, 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len(set(rounds)) == 6  # all orders come up
    assert max(Counter(each[0] for each in rounds).values()) < 30


def test_the_order_depends_on_the_seed_alone():
    def order(seed):
        device, log = VirtualCpu(), []
        models = {name: Model(device, 10 * MS, log, name) for name in "abcd"}
        samples = time_architectures(models, device, TimingPlan(min_runs=9, max_runs=9, seed=seed))
        assert samples["a"].order_seed == seed
        return log

    assert order(3) == order(3) != order(4)


def test_drift_hits_all_architectures_alike():
    device = VirtualDevice(launch_s=0)

    def slowing(seconds):
        def forward():
            device.launch(seconds * (1 + device.now_s()))  # everything is twice as slow after each second
        return forward

    samples = time_architectures({"a": slowing(MS), "b": slowing(MS)}, device, TimingPlan(min_runs=100, max_runs=100))
    means = [sum(samples[name].wall_s) / 100 for name in "ab"]
    assert samples["a"].wall_s[-1] > 1.3 * samples["a"].wall_s[0]
    assert means[0] / means[1] == pytest.approx(1, abs=0.005)


# Stopping -------------------------------------------------------------------------------------------------------------------------


def test_the_budget_is_seconds_of_timed_forwards_of_the_slowest():
    device = VirtualCpu()
    samples = time_architectures({"a": Model(device, 10 * MS), "b": Model(device, 50 * MS)}, device, TimingPlan(min_runs=2, budget_s=1.0))
    assert {sample.rounds for sample in samples.values()} <= {20, 21} and samples["a"].rounds == samples["b"].rounds


def test_on_an_asynchronous_device_both_passes_are_charged_to_the_budget():
    device = VirtualDevice(launch_s=0)
    sample = time_architectures({"a": Model(device, 50 * MS)}, device, TimingPlan(min_runs=2, budget_s=1.0))["a"]
    assert 9 <= sample.rounds <= 10


def test_min_runs_are_made_whatever_the_budget_and_max_runs_end_it():
    device = VirtualCpu()
    assert time_architectures({"a": Model(device, 5.0)}, device, TimingPlan(min_runs=7, budget_s=0.1))["a"].rounds == 7
    assert time_architectures({"a": Model(device, MS)}, device, TimingPlan(min_runs=2, max_runs=13))["a"].rounds == 13


# Warm-up --------------------------------------------------------------------------------------------------------------------------


def test_the_first_call_stands_apart():
    device = VirtualCpu()
    sample = time_architectures({"a": Model(device, lambda call: 3.0 if call == 1 else 10 * MS)}, device, SHORT)["a"]
    assert sample.first_call_s == pytest.approx(3.0)
    assert sample.steady and max(sample.wall_s) == pytest.approx(10 * MS)


def test_a_very_slow_forward_is_warm_where_its_first_round_is_as_fast_as_its_first_call():
    device = VirtualCpu()
    model = Model(device, 8.0)
    sample = time_architectures({"a": model}, device, TimingPlan(min_runs=2, max_runs=2))["a"]
    assert (sample.warmup_runs, sample.steady, model.calls, sample.rounds) == (1, True, 1 + 2, 2)


@pytest.mark.parametrize("kind", [VirtualCpu, VirtualDevice])
def test_where_a_round_is_not_it_is_forgotten_for_all(kind):
    device = kind()
    log: list[str] = []
    slow = Model(device, lambda call: {1: 3.0, 2: 2.0}.get(call, 1.5), log, "slow")
    other = Model(device, 1.5, log, "other")
    varied = Varied({"slow": lambda: device.host(1.0), "other": lambda: device.host(1.0)}, lambda blocks: {})
    samples = time_architectures({"slow": slow, "other": other}, device, TimingPlan(min_runs=2, max_runs=2, varied_every=1), varied=varied)
    for sample in samples.values():
        assert sample.steady and sample.rounds == 2 and max(sample.wall_s) == pytest.approx(1.5, rel=1e-3)
        assert sample.varied_rounds == [0, 1] and len(sample.varied_wall_s) == 2 and len(sample.preempted) == 2
    assert samples["slow"].warmup_runs == 1 + 2 and samples["other"].warmup_runs == 1
    blocks = 2 * (2 if kind is VirtualDevice else 1)  # a device with events times each block twice
    assert samples["other"].spent_s == pytest.approx(blocks * 1.5 + 2 * blocks / 2, rel=0.35)


def test_what_is_fast_after_a_slow_first_call_has_blocks_of_its_own_speed():
    device = VirtualCpu()
    slow_once = Model(device, lambda call: 5.0 if call == 1 else 20 * US)
    sample = time_architectures({"a": slow_once}, device, TimingPlan(min_runs=3, max_runs=3))["a"]
    always = time_architectures({"a": Model(device, 20 * US)}, device, TimingPlan(min_runs=3, max_runs=3))["a"]
    assert sample.steady and sample.calls_per_block == always.calls_per_block


def test_what_is_fast_after_a_first_call_longer_than_warming_up_may_take_is_warmed_up_all_the_same():
    device = VirtualCpu()
    late, slow = Model(device, lambda call: 30.0 if call == 1 else 20 * US), Model(device, 2.0)
    samples = time_architectures({"late": late, "slow": slow}, device, TimingPlan(min_runs=1, max_runs=1))
    assert samples["late"].steady and samples["late"].calls_per_block > 1000
    assert samples["slow"].rounds == 1 and slow.calls == 3  # its first call, and a round that was forgotten


def test_what_is_fast_after_a_slow_first_call_and_never_settles_does_not_hold_up_a_slow_one():
    device = VirtualCpu()
    late, slow = Model(device, lambda call: 2.0 if call == 1 else 5 * MS * (1 + call % 2)), Model(device, 2.0)
    time_architectures({"late": late, "slow": slow}, device, TimingPlan(min_runs=1, max_runs=1))
    assert slow.calls <= 3


def test_beside_a_slow_forward_a_fast_one_is_run_several_times_a_round():
    device = VirtualCpu()
    samples = time_architectures(
        {"slow": Model(device, 2.0), "fast": Model(device, 0.1), "middle": Model(device, 0.9)}, device, TimingPlan(min_runs=1, max_runs=1)
    )
    assert {name: sample.calls_per_block for name, sample in samples.items()} == {"slow": 1, "fast": 5, "middle": 1}
    assert samples["fast"].wall_s == [pytest.approx(0.1)]
    alone = time_architectures({"fast": Model(device, 0.1)}, device, TimingPlan(min_runs=1, max_runs=1))["fast"]
    assert alone.calls_per_block == 1


def test_warm_up_lasts_until_the_times_have_settled():
    device = VirtualCpu()
    model = Model(device, lambda call: (1 + 3 * 0.97**call) * 20 * MS)
    sample = time_architectures({"a": model}, device, TimingPlan(min_runs=5, max_runs=5))["a"]
    assert sample.steady and 30 < sample.warmup_runs < 200
    assert max(sample.wall_s) < 1.4 * 20 * MS  # it began at four times its last level


def test_beyond_the_time_for_warming_up_a_slow_forward_is_timed_however_it_changes():
    device = VirtualCpu()
    model, calm = Model(device, lambda call: 9.0 / call), Model(device, 1.0)
    samples = time_architectures({"a": model, "calm": calm}, device, TimingPlan(min_runs=1, max_runs=1))
    assert (samples["a"].steady, model.calls, samples["a"].wall_s) == (False, 2, [pytest.approx(4.5)])
    assert samples["calm"].steady and calm.calls == 2


@pytest.mark.parametrize("kind", [VirtualCpu, VirtualDevice])
def test_what_never_settles_is_said_and_timed_all_the_same(kind):
    device = kind()
    restless = Model(device, lambda call: 1.2**call)
    samples = time_architectures({"restless": restless, "calm": Model(device, 1.0)}, device, TimingPlan(min_runs=2, max_runs=2))
    assert not samples["restless"].steady and samples["restless"].rounds == 2
    assert samples["calm"].steady
    assert samples["restless"].warmup_runs <= 7  # none forgotten after 10 s


def test_warm_up_ends_after_its_windows_too():
    device = VirtualCpu()
    model = Model(device, lambda call: MS * (1.5**call))
    plan = TimingPlan(min_runs=1, max_runs=1, warmup_window_s=0.0, warmup_max_s=1e9, warmup_max_windows=6)
    sample = time_architectures({"a": model}, device, plan)["a"]
    assert not sample.steady and sample.warmup_runs == 6


def test_preemption_does_not_unsettle_a_cpu_warm_up():
    device = VirtualCpu()

    def forward():
        device.host(10 * MS)
        device.preempt(device.now_s() % 0.1)

    sample = time_architectures({"a": forward}, device, TimingPlan(min_runs=1, max_runs=1))["a"]
    assert sample.steady and sample.warmup_runs <= 20


# Failures -------------------------------------------------------------------------------------------------------------------------


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("no\nsecond line"), "error"), (MemoryError(), "out of memory"), (OutOfMemoryError("CUDA"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), "out of memory"),
    ],
)
@pytest.mark.parametrize("after", [0, 1, 6])
def test_an_architecture_that_raises_becomes_a_sentence_and_the_others_go_on(error, kind, after):
    device = VirtualCpu()
    models = {"bad": Model(device, 10 * MS, after=(after, error)), "good": Model(device, 10 * MS)}
    samples = time_architectures(models, device, TimingPlan(min_runs=10, max_runs=10, warmup_window_s=0.0))
    assert samples["bad"].error_kind == kind
    assert samples["bad"].error.startswith(f"bad raised {type(error).__name__}") and "\n" not in samples["bad"].error
    assert samples["bad"].rounds == max(0, after - 3)  # the first call and two windows of one call come before
    assert samples["good"].error == "" and samples["good"].rounds == 10


def test_nothing_is_timed_once_all_have_failed():
    device = VirtualCpu()
    samples = time_architectures({"bad": Model(device, MS, after=(0, ValueError("no")))}, device, SHORT)
    assert samples["bad"].rounds == 0 and samples["bad"].first_call_s is None
    assert time_architectures({}, device, SHORT) == {}


def test_a_failed_architecture_gives_its_memory_back_before_the_next_one_runs():
    device = VirtualDevice()

    def greedy():
        device.allocator.free(device.allocator.allocate(2**30))
        raise OutOfMemoryError("CUDA out of memory.")

    time_architectures({"greedy": greedy}, device, SHORT)
    assert device.memory().reserved_bytes == 0


@pytest.fixture
def thawed():
    """As a process is that measures; other tests of a file begin with all that stands there frozen (conftest.py)."""
    gc.unfreeze()
    yield
    gc.freeze()


def test_an_interrupt_is_not_swallowed_and_garbage_collection_is_back_on(thawed):
    device = VirtualCpu()
    with pytest.raises(KeyboardInterrupt):
        time_architectures({"a": Model(device, MS, after=(5, KeyboardInterrupt()))}, device, SHORT)
    assert gc.isenabled() and gc.get_freeze_count() == 0


# Garbage, progress, plan ----------------------------------------------------------------------------------------------------------


def test_garbage_is_collected_before_each_block_and_never_inside(thawed):
    device, events = VirtualCpu(), []

    def watch(phase, info):
        events.append(phase)

    def forward():
        events.append("call")
        assert not gc.isenabled()
        junk = [[] for _ in range(5000)]  # more than enough to trigger a collection
        del junk
        device.host(10 * MS)

    gc.callbacks.append(watch)
    try:
        time_architectures({"a": forward}, device, TimingPlan(min_runs=5, max_runs=5, warmup_window_s=0.0))
    finally:
        gc.callbacks.remove(watch)
    calls = [at for at, event in enumerate(events) if event == "call"]
    assert len(calls) == 1 + 2 + 5
    assert all(events[at - 1] == "stop" for at in calls)
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_progress_names_the_stage_and_ends_at_one():
    device, told = VirtualCpu(), []
    models = {"a": Model(device, 10 * MS), "b": Model(device, 20 * MS)}
    time_architectures(models, device, TimingPlan(min_runs=5, max_runs=100, budget_s=0.4), progress=told.append)
    assert {each.architecture for each in told if each.stage == "warm-up"} == {"a", "b"}
    shares = [each.share for each in told if each.stage == "timing"]
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) >= 19


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"min_runs": 0}, "min_runs is 0"), ({"min_runs": 9, "max_runs": 8}, "max_runs 8 is below min_runs 9"),
        ({"budget_s": -1.0}, "budget_s is -1.0"),
        ({"warmup_max_windows": 1}, "warmup_max_windows is 1"), ({"clock_share": 0.0}, "clock_share is 0.0"),
        ({"warmup_max_s": float("inf")}, "warmup_max_s is inf"),
    ],
)
def test_an_impossible_plan_is_refused(wrong, words):
    with pytest.raises(UsageError, match=words):
        TimingPlan(**wrong)


def test_a_new_sample_is_empty():
    assert SpeedSample(order_seed=0).rounds == 0
