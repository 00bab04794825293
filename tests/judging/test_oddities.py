"""Odd raw times are told, even ones are not."""

from __future__ import annotations

from humar_bench.judging.oddities import oddities, stray_fault
from tests.golden.records import fps

GPU = {"wall_s": [0.0101] * 10, "device_s": [0.01] * 10, "stray_s": [0.0] * 10}


def test_odd_times_are_told_and_even_ones_are_not():
    even = {"wall_s": [1.0, 1.01] * 6, "cpu_s": [1.0, 1.01] * 6}
    assert oddities([even, fps("original", 0).measured]) == ()
    assert "1 of 24 rounds took more than 10 times the median, up to 11.0x" in oddities([even, {**even, "wall_s": [1.0] * 11 + [11.0]}])[0]
    late = {**even, "process": 3, "cpu_s": [4.0] * 9 + [1.0] * 3}
    assert oddities([even, late]) == (
        "in 1 of 2 processes its speed changed while it was timed (process 3: last at round 9), so that warm-up, or something like it, "
        "went on",
    )
    assert oddities([{**even, "collections": 2}, even]) == ("Python's garbage was collected 2 times inside timed blocks",)


def test_work_that_goes_on_elsewhere_is_a_fault_from_one_percent_on():
    assert stray_fault("x", [GPU]) == stray_fault("x", [{"wall_s": [1.0]}]) == ""
    assert stray_fault("x", [{**GPU, "stray_s": [0.00009] * 10}]) == ""
    assert "x works on for 0.2 ms" in stray_fault("x", [{**GPU, "stray_s": [0.0002] * 10}])
