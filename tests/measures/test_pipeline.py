"""Pipelines of made-up stages under a made-up clock: what is timed, what overlaps, what a failing stage costs."""

from __future__ import annotations

import threading
import time

import pytest

from humar_bench.devices.device import CpuDevice
from humar_bench.measures.pipeline import AFTER, BEFORE, BURST, MODEL, Stage, time_pipelines


class Clock(CpuDevice):
    """Time passes only where a stage says so."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def now_s(self) -> float:
        return self.at_s


def stages(clock: Clock, seen: list | None = None, **seconds: float) -> list[Stage]:
    def stage(name: str, took_s: float) -> Stage:
        def work(value):
            clock.at_s += took_s
            if seen is not None:
                seen.append((name, value))
            return f"{value}>{name}"

        return Stage(name, work, {"decode": BEFORE, "forward": MODEL}.get(name, AFTER))

    return [stage(name, took_s) for name, took_s in seconds.items()]


def test_each_stage_has_its_time_and_the_item_goes_through_all_of_them():
    clock, seen = Clock(), []
    found = time_pipelines({"a": stages(clock, seen, decode=1, forward=4, finish=2)}, ["x", "y"], clock, budget_s=1.0)["a"]
    assert found.stages == {"decode": [1, 1, 1], "forward": [4, 4, 4], "finish": [2, 2, 2]} and found.latency_s == [7, 7, 7]
    assert found.lines == {"decode": BEFORE, "forward": MODEL, "finish": AFTER}
    assert {value for name, value in seen if name == "finish"} == {"x>decode>forward", "y>decode>forward"}
    assert [value for name, value in seen if name == "decode"][2:5] == ["x", "y", "x"]  # after the warm-up, item by item
    assert found.error is None and found.burst == BURST and len(found.overlapped_s) == 1


def test_rounds_go_on_until_one_has_used_its_half_of_the_budget():
    clock = Clock()
    found = time_pipelines({"fast": stages(clock, forward=1), "slow": stages(clock, forward=2)}, ["x"], clock, budget_s=40)
    assert len(found["slow"].latency_s) == len(found["fast"].latency_s) == 10
    assert len(time_pipelines({"a": stages(clock, forward=1)}, ["x"], clock, budget_s=40, max_rounds=5)["a"].latency_s) == 5


def test_a_stage_that_raises_ends_its_own_pipeline():
    clock = Clock()

    def broken(value):
        raise ValueError("no")

    found = time_pipelines(
        {"broken": [Stage("forward", broken, MODEL)], "fine": stages(clock, forward=1)}, ["x"], clock, budget_s=1
    )
    assert isinstance(found["broken"].error, ValueError) and found["broken"].latency_s == []
    assert found["fine"].error is None and found["fine"].overlapped_s


@pytest.mark.parametrize("line", [BEFORE, MODEL, AFTER])
def test_a_stage_that_raises_only_when_stages_overlap_is_found_too(line):
    clock, main = Clock(), threading.get_ident()

    def work(value):
        if seen["passes"] >= 5:
            raise ValueError("later")
        seen["passes"] += 1
        return value

    seen = {"passes": 0}
    found = time_pipelines({"a": [Stage("s", work, line)]}, ["x"], clock, budget_s=0.1)["a"]
    assert isinstance(found.error, ValueError) and threading.get_ident() == main


def test_lines_overlap_and_keep_their_order():
    """What comes before the model works on the next item while the model runs: the model waits for its second item to be prepared."""
    ready, order = threading.Event(), []
    rounds = {"count": 0}

    def decode(value):
        rounds["count"] += 1
        if rounds["count"] > 5 and value == "y":
            ready.set()
        return value

    def forward(value):
        if rounds["count"] > 5 and value == "x":
            assert ready.wait(20), "nothing was prepared while the model ran"
        order.append(value)
        return value

    found = time_pipelines(
        {"a": [Stage("decode", decode, BEFORE), Stage("forward", forward, MODEL), Stage("finish", lambda value: value, AFTER)]},
        ["x", "y"], CpuDevice(), budget_s=1e-6,
    )["a"]
    assert found.error is None, found.error
    assert order[-4:] == ["x", "y", "x", "y"] and threading.active_count() < 20
    assert time.monotonic() > 0
