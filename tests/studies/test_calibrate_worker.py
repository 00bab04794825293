"""The stacks that calibrate times: what is planted, what is identical, and that a stack which is not is refused."""

from __future__ import annotations

import pytest
import torch

from humar_bench.devices.opening import open_device
from humar_bench.errors import MeasurementError
from humar_bench.measures.speed_sample import SpeedSample
from humar_bench.studies.calibrate.worker import TOKENS, WIDTH, build_arms, check_outputs, construction_order, raw_times, time_arms

ARMS = {"3": 3, "3 again": 3, "5": 5}


@pytest.fixture
def x():
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


def test_an_arm_has_as_many_layers_as_it_says_and_shares_their_weights_with_the_others():
    stacks = build_arms(ARMS, ["5", "3 again", "3"], "cpu", seed=0)
    assert list(stacks) == ["5", "3 again", "3"]
    assert {name: len(stack) for name, stack in stacks.items()} == ARMS
    for one, other in zip(stacks["3"], stacks["5"], strict=False):
        assert torch.equal(one.linear.weight, other.linear.weight) and one.linear.weight is not other.linear.weight


def test_a_stack_that_is_not_what_its_twin_is_or_not_finite_is_refused_before_it_is_timed(x):
    stacks = build_arms(ARMS, list(ARMS), "cpu", seed=0)
    with torch.inference_mode():
        check_outputs(stacks, ARMS, x)
        stacks["3 again"][1].linear.weight[0, 0] += 1
        with pytest.raises(MeasurementError, match="3 again has the layers of another stack and a different output"):
            check_outputs(stacks, ARMS, x)
        stacks["5"][4].linear.weight[0, 0] = float("nan")
        with pytest.raises(MeasurementError, match="5 gave an output that is not finite"):
            check_outputs({"5": stacks["5"]}, ARMS, x)


def test_construction_order_is_shuffled_anew_in_each_process_and_repeatable():
    orders = [tuple(construction_order(ARMS, 0, process)) for process in range(40)]
    assert len(set(orders)) == 6 and set(orders[0]) == set(ARMS)
    assert orders == [tuple(construction_order(ARMS, 0, process)) for process in range(40)]
    assert orders != [tuple(construction_order(ARMS, 1, process)) for process in range(40)]


def test_raw_times_are_whole_nanoseconds_with_one_digit_a_round():
    sample = SpeedSample(0, [0.0030000004, 0.002], [0.001, 0.002], None, [True, False], 0.5, 7, True, 1)
    assert raw_times(sample) == {
        "wall_ns": [3_000_000, 2_000_000], "cpu_ns": [1_000_000, 2_000_000], "preempted": "10", "first_call_ns": 500_000_000,
        "warmup_runs": 7, "steady": True, "calls_per_block": 1,
    }
    sample.device_s = [0.001, 0.0015]
    assert raw_times(sample)["device_ns"] == [1_000_000, 1_500_000]


def test_an_arm_that_breaks_while_it_is_timed_is_an_error_and_no_short_data(monkeypatch):
    def broken(stacks, arms, x):
        stacks["5"][0].forward = None

    monkeypatch.setattr("humar_bench.studies.calibrate.worker.check_outputs", broken)
    plan = {"budget_s": 0.01, "min_runs": 2, "warmup_window_s": 0.001}
    with pytest.raises(MeasurementError, match="the stack 5 could not be timed: .*TypeError"):
        time_arms({"arms": ARMS, "seed": 0, "process": 0, "plan": plan}, open_device("cpu"))
