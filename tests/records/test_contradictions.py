"""Sound records pass; each number that cannot be is named."""

from __future__ import annotations

import copy

import pytest

from humar_bench.records.contradictions import contradictions
from tests.golden.records import ENVIRONMENT, WORKLOAD, component_time, flops, made_up_run, memory, params

GPU = {
    "wall_s": [0.0101] * 10, "cpu_s": [0.001] * 10, "device_s": [0.01] * 10, "enqueue_s": [0.001] * 10, "stray_s": [0.0] * 10,
    "preempted": [False] * 10, "spent_s": 0.5, "calls_per_block": 1, "batch": 2, "steady": True, "warmup_runs": 9,
}
CUDA = {
    "peak_allocated_bytes": 2000, "peak_requested_bytes": 1900, "peak_reserved_bytes": 2**30, "nvml_process_bytes": 2**30 + 600 * 2**20,
    "start_allocated_bytes": 0,
}


def found(measure: str, measured: dict, **changes) -> str:
    return "; ".join(contradictions(measure, {**copy.deepcopy(measured), **changes}, {"batch": WORKLOAD.batch}, ENVIRONMENT))


def test_sound_records_pass_and_what_a_record_does_not_hold_is_not_asked():
    for record in made_up_run("original", "efficient", "theirs"):
        assert contradictions(record.measure, record.measured, record.workload, record.environment) == []
    assert found("fps", GPU) == "" and found("fps", {"wall_s": []}) == "" and found("params", {}) == "" and found("growth", {"x": 1}) == ""


@pytest.mark.parametrize(("changes", "says"), [
    ({"wall_s": [0.001] * 10}, "the clock was read before the work was done"),
    ({"wall_s": [0.02] * 10}, "the events do not enclose its work"),
    ({"stray_s": [0.0] * 9}, "stray_s has 9 values for 10 rounds"),
    ({"device_s": [None] * 10}, "device_s holds 10 of 10 times that are no finite number"),
    ({"wall_s": [0.0] * 10}, "wall_s holds 10 of 10 times that are no positive number"),
    ({"first_call_s": float("nan")}, "first_call_s is nan; it must be a finite number"),
    ({"spent_s": 0.05}, "were made within 0.05 s: a time has the wrong unit"),
    ({"device_s": None, "spent_s": 5.0}, "of the 5 s they took: a time has the wrong unit"),
    ({"cpu_s": [1.0] * 10}, "of CPU time in 0.101 s on 2 cores"),
    ({"batch": 1}, "divides by a batch of 1"),
    ({"warmup_runs": 0}, "called steady and no warm-up run was made"),
    ({"wall_s": "x"}, "its wall_s is 'x'"),
    ({"calls_per_block": "many"}, "calls_per_block is 'many'; it must be a whole number of at least 1"),
])
def test_times_that_cannot_be_are_named(changes, says):
    assert says in found("fps", GPU, **changes)


@pytest.mark.parametrize(("make", "changes", "says"), [
    (params, {"total": 1}, "are not its total of 1"), (params, {"listed": 1}, "its names list 1"),
    (params, {"param_bytes": 1.5}, "whole number"),
    (params, {"storage_bytes": 4}, "lie on 4 bytes"), (params, {"modules": [{"own": 3}]}, "its modules add up to 3"),
    (params, {"components": {"a": 1}}, "its components add up to 1"), (params, {"total": None}, "total is no number"),
    (flops, {"macs": 1}, "1 multiply-adds are not half"), (flops, {"batch": 9}, "a batch of 9"),
    (flops, {"matmul_flops": -2}, "matmul_flops is -2; it must be a whole number of at least 0"),
    (flops, {"components": {"a": {"matmul_flops": 1, "second_tier_flops": 2}}}, "of its components add up to 1"),
    (flops, {"second_tier": {"softmax": 1}}, "do not add up"),
    (component_time, {"rounds": 4}, "holds 3 values for 4 rounds"), (component_time, {"batch": 9}, "a batch of 9"),
    (component_time, {"instrumented": {"wall_s": [0.9, 0.909, 0.918], "cpu_s": [9.0] * 3}}, "take 1800 ms by cpu_s and the whole"),
    (component_time, {"components": {"encoder": {"wall_s": [0.1] * 3, "cpu_s": [0.2] * 3}}}, "take 100 ms by wall_s and the whole"),
    (component_time, {"plain": {"wall_s": [float("nan")] * 3}}, "plain.wall_s holds 3 of 3 times that are no finite number"),
    (component_time, {"plain": {}}, "its values cannot be read"),
    (memory, {"outputs_bytes": 2**60}, "not read around the forward"),
    (memory, {"difference_bytes": 1}, "do not add up to the allocator's"),
    (memory, {"by_component": {"a": 1}}, "alive at the peak"),
    (memory, {"resident_bytes": 2**30, "resident_start_bytes": 2**30}, "footprint grew by 0"),
    (memory, {"cuda": {**CUDA, "peak_requested_bytes": 2001}}, "only 2000 allocated"),
    (memory, {"cuda": {**CUDA, "peak_allocated_bytes": 2**31}}, "not read above what was there"),
    (memory, {"cuda": {**CUDA, "start_allocated_bytes": 512}}, "something else is alive"),
    (memory, {"cuda": {**CUDA, "nvml_process_bytes": 2**34}}, "another process"),
    (memory, {"cuda": {"peak": 1}}, "its values cannot be read"),
])
def test_counts_and_bytes_that_cannot_be_are_named(make, changes, says):
    assert says in found(make("original").measure, make("original").measured, **changes)
    assert found("memory", memory("original").measured, cuda=CUDA) == ""


ENERGY = {
    "joules": 500.0, "images": 198, "seconds": 1.0, "step_s": 0.02, "error_share": 0.021, "idle_w": 100.0, "power_w": 490.0,
    "per_image_j": 500 / 198, "above_idle_j": 400 / 198, "reason": "",
}


@pytest.mark.parametrize(("changes", "says"), [
    ({"joules": 0.5, "per_image_j": 0.5 / 198}, "makes 0.5 W and the driver read 490 W then"),
    ({"power_w": 120.0}, "makes 500 W and the driver read 120 W then"),
    ({"joules": 5e5, "per_image_j": 5e5 / 198, "power_w": None}, "the driver read 480 W while it was timed"),
    ({"per_image_j": 500 / 99}, "J an image are not 500 J over 198 images"),
    ({"images": 19800, "per_image_j": 500 / 19800}, "its images are miscounted"),
    ({"images": 20, "per_image_j": 500 / 20}, "its images are miscounted"),
    ({"joules": -1.0}, "joules is -1.0; it must be a number above 0"), ({"seconds": 0}, "seconds is 0; it must"),
    ({"images": None}, "images is None"),
])
def test_an_energy_that_contradicts_power_and_time_is_named(changes, says):
    rounds = [{"power_w": 480.0}, None, {"power_w": None}, *[{"power_w": 480.0}] * 7]
    assert found("fps", GPU, round_telemetry=rounds, energy=ENERGY) == ""
    assert says in found("fps", GPU, round_telemetry=rounds, energy={**ENERGY, **changes})


def test_an_energy_that_was_not_measured_contradicts_nothing():
    assert found("fps", GPU, energy={"reason": "the energy counter did not advance."}) == ""
    assert found("fps", GPU, energy={**ENERGY, "power_w": None}) == ""
