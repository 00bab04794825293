"""Rates from made-up raw data whose truth is known: no process is started, no clock is read."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from humar_bench.errors import UsageError
from humar_bench.judging import statistics
from humar_bench.studies.calibrate.calibrate import ARMS
from humar_bench.studies.calibrate.error_rates import (
    AGAIN,
    CPU,
    DEVICE,
    QUIET,
    WALL,
    Analysis,
    analyse,
    curve_sizes,
    independent,
    log_ratios,
    neighbours,
    recovered_sizes,
    resampled,
    samples,
    smallest_found,
    subsets,
    times,
    upper_bound,
    usual_size,
)
from humar_bench.studies.calibrate.rules import RULES

ANALYSIS = Analysis(ARMS, margin=0.02, comparisons=300, replays=60)


def made_up(processes=30, rounds=40, *, effect=None, layout=0.003, level=0.1, drift=0.0, seed=0, quiet=0.8):
    """Raw data: `effect` gives each arm's share more than the reference, `level` and `layout` are the spread of processes and of arms
    in them, `drift` how much slower a process is at its end."""
    random = np.random.default_rng(seed)
    effect = effect or {arm: layers / 100 - 1 for arm, layers in ARMS.items()}
    raw = []
    for process in range(processes):
        base = 3e6 * math.exp(random.normal(0, level)) * (1 + drift * np.arange(rounds) / rounds)
        arms = {}
        for arm in ARMS:
            cpu = base * (1 + effect[arm]) * np.exp(random.normal(0, layout) + random.normal(0, 0.02, rounds))
            calm = random.random(rounds) < quiet
            wall = np.where(calm, cpu, cpu * 1.5)
            arms[arm] = {
                "cpu_ns": [round(each) for each in cpu], "wall_ns": [round(each) for each in wall],
                "preempted": "".join("01"[not each] for each in calm),
            }
        raw.append({"process": process, "arms": arms})
    return raw


def row_of(rows, **wanted):
    [row] = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


@pytest.fixture(scope="module")
def results():
    return analyse(made_up(rounds=100, layout=0.002, seed=1), ANALYSIS)


def test_identical_arms_raise_no_alarm_and_every_planted_effect_of_2_percent_is_found(results):
    for metric in (CPU, WALL):
        for row in results["false_alarms"]:
            assert row["independent_alarms"] == row["resampled_faster"] == row["resampled_slower"] == 0
        for arm, least in (("102", 0.9), ("104", 1.0)):  # 2 % is the margin itself, so that "same" may be said of it now and then
            row = row_of(results["power"], metric=metric, arm=arm, processes=15)
            assert row["found_rate"] == row["found"] / row["comparisons"] >= least
            assert row["independent_found"] == row["independent"] == 2
    assert all(row["wrong_way"] == row["independent_wrong_way"] == 0 for row in results["power"])
    assert results["smallest_found"] == {CPU: pytest.approx(0.02), WALL: pytest.approx(0.02)}


def test_a_planted_effect_is_recovered_with_an_interval_around_it(results):
    for arm, layers in list(ARMS.items())[1:]:
        row = row_of(results["sizes"], metric=CPU, arm=arm)
        assert row["planted"] == pytest.approx(layers / 100 - 1)
        assert row["low"] < row["planted"] < row["high"] < row["low"] + 0.015
        assert row["recovered"] == pytest.approx(row["planted"], abs=0.004)
    assert row_of(results["sizes"], metric=CPU, arm="104")["verdict"] == "slower"
    assert row_of(results["sizes"], metric=CPU, arm=AGAIN)["verdict"] == "same"


def test_an_arm_that_is_faster_than_planted_is_counted_as_wrong_way_and_not_as_found():
    raw = made_up(effect={"100": 0, "100 again": 0, "101": 0.01, "102": 0.02, "104": -0.05})
    found = analyse(raw, ANALYSIS)
    row = row_of(found["power"], metric=CPU, arm="104", processes=15)
    assert (row["found"], row["wrong_way"]) == (0, row["comparisons"])
    assert row["independent_wrong_way"] == row["independent"]
    assert found["smallest_found"][CPU] is None  # +2 % was found, but a larger effect was not
    ours = row_of(found["rules"], metric=CPU, where="humar-bench")
    assert (ours["right 104"], ours["wrong 104"], ours["right 102"]) == (0, 1, 1)


def test_a_control_arm_that_is_not_identical_is_a_false_alarm_in_every_comparison():
    found = analyse(made_up(effect={"100": 0, "100 again": 0.1, "101": 0.01, "102": 0.02, "104": 0.04}), ANALYSIS)
    for row in found["false_alarms"]:
        assert row["resampled_rate"] == 1 and row["resampled_slower"] == row["resampled"]
        assert row["independent_alarms"] == row["independent"] and row["independent_bound"] == 1
    assert row_of(found["rules"], metric=CPU, where="humar-bench")["alarm_rate"] == 1


def test_drift_within_and_between_processes_fools_rules_that_do_not_pair_and_not_ours():
    found = analyse(made_up(level=0.2, drift=0.5, seed=3), ANALYSIS)
    ours = row_of(found["rules"], metric=CPU, where="humar-bench")
    assert ours["alarm_rate"] == 0 and ours["right 104"] == 1
    fps, pooled = (row_of(found["rules"], metric=CPU, where=where) for where in ("tables of timm, mmdet, RT-DETR", "pyperf"))
    assert fps["alarm_rate"] > 0.8 and fps["wrong 104"] > 0.2
    assert 0.2 < fps["right 104"] <= 1 - fps["wrong 104"]
    assert pooled["alarm_rate"] > 0.1
    assert {row["rule"] for row in found["rules"]} >= {rule.name for rule in RULES}


def test_rules_that_see_the_same_speed_everywhere_raise_no_alarm_and_find_what_is_large():
    raw = made_up(rounds=400, level=0, layout=0, effect={"100": 0, "100 again": 0, "101": 0.01, "102": 0.02, "104": 0.2})
    for row in analyse(raw, ANALYSIS)["rules"]:
        if row["metric"] == CPU and row["processes"] < 10:  # a rule on 10 processes errs in some 5 %
            assert row["alarm_rate"] == 0
        if row["metric"] == CPU:
            assert (row["right 104"], row["wrong 104"]) == (1, 0)


def test_resampled_verdicts_are_those_of_compare_processes():
    raw = made_up(processes=12, layout=0.02, seed=5)
    for arm in ("100 again", "101", "102", "104"):
        logs = log_ratios(raw, arm, CPU)
        counted = resampled(logs, 6, ANALYSIS)
        chosen = subsets(12, 6, ANALYSIS.comparisons, np.random.default_rng([ANALYSIS.seed, 6]))
        expected = dict.fromkeys(("faster", "slower", "same", "undecided"), 0)
        for indices in chosen:
            some = [raw[index] for index in indices]
            compared = statistics.compare_processes(samples(some, "100", CPU), samples(some, arm, CPU), margin=0.02)
            expected[compared.verdict] += 1
        assert counted == {"comparisons": 300, **expected}
    assert counted["slower"] and counted["undecided"]


def test_a_resampled_comparison_holds_no_process_twice_and_all_there_are_when_they_are_few():
    random = np.random.default_rng(0)
    chosen = subsets(30, 15, 500, random)
    assert chosen.shape == (500, 15) and all(len(set(row)) == 15 for row in chosen.tolist())
    assert set(chosen.ravel().tolist()) == set(range(30))
    assert subsets(4, 3, 500, random).tolist() == [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]]


def test_independent_comparisons_share_no_process():
    raw = made_up(processes=17)
    raw[16]["arms"] = raw[15]["arms"] = None  # the rest that makes no whole group is not touched
    assert independent(raw, ANALYSIS, "104", CPU, 5) == {"comparisons": 3, "faster": 0, "slower": 3, "same": 0, "undecided": 0}


@pytest.mark.parametrize(("hits", "tries", "bound"), [(0, 300, 0.00994), (0, 100, 0.0295), (0, 1, 0.95), (3, 3, 1.0), (0, 0, 1.0)])
def test_the_exact_bound_of_a_rate(hits, tries, bound):
    assert upper_bound(hits, tries) == pytest.approx(bound, abs=5e-5)


def test_at_the_bound_so_few_hits_have_a_chance_of_5_percent():
    for hits, tries in ((1, 20), (4, 60), (7, 9)):
        assert stats.binom.cdf(hits, tries, upper_bound(hits, tries)) == pytest.approx(0.05)


def test_quiet_rounds_are_those_in_which_neither_arm_was_preempted():
    raw = {"arms": {
        "100": {"wall_ns": [1, 2, 3, 4], "preempted": "0100"},
        "104": {"wall_ns": [5, 6, 7, 8, 9], "preempted": "00100"},
    }}
    assert times(raw, "104", QUIET).tolist() == pytest.approx([5e-9, 8e-9])
    assert times(raw, "100", QUIET, "104").tolist() == pytest.approx([1e-9, 4e-9])


def test_quiet_rounds_keep_the_size_that_contention_takes_from_the_others():
    raw = made_up(rounds=60, seed=2)
    for process in raw:  # waiting: the same time for both arms, whatever they cost
        for arm in process["arms"].values():
            pairs = zip(arm["cpu_ns"], arm["preempted"], strict=True)
            arm["wall_ns"] = [cpu + (3_000_000 if digit == "1" else 0) for cpu, digit in pairs]
            arm["preempted"] = "1" * 45 + "0" * 15
            arm["wall_ns"] = [cpu + 3_000_000 for cpu in arm["cpu_ns"][:45]] + arm["cpu_ns"][45:]
    wall, quiet = (row_of(recovered_sizes(raw, ANALYSIS, metric), arm="104")["recovered"] for metric in (WALL, QUIET))
    assert wall < 0.027 and quiet == pytest.approx(0.04, abs=0.005)


def test_too_few_quiet_rounds_leave_the_size_open_instead_of_guessing_it():
    raw = made_up(quiet=0.1)
    row = row_of(recovered_sizes(raw, ANALYSIS, QUIET), arm="104")
    assert (row["processes"], row["recovered"], row["verdict"]) == (0, None, None)


def test_neighbours_come_right_after_or_right_before():
    assert [[half.tolist() for half in pair] for pair in neighbours(5, 2)] == [
        [[0, 1], [2, 3]], [[2, 3], [0, 1]], [[1, 2], [3, 4]], [[3, 4], [1, 2]],
    ]


@pytest.mark.parametrize(("processes", "usual", "curve"), [
    (2, 2, [2]), (5, 5, [5]), (9, 5, [5]), (24, 12, [5, 8, 10, 12, 15]), (40, 15, [5, 8, 10, 12, 15, 20, 25, 30]),
])
def test_comparisons_are_small_enough_to_differ_from_one_another(processes, usual, curve):
    assert usual_size(processes) == usual
    assert curve_sizes(processes) == curve


def test_the_smallest_effect_found_needs_90_percent_and_every_larger_effect():
    def rates(*shares):
        planted = zip(shares, (0.01, 0.02, 0.04), strict=True)
        return [{"metric": CPU, "processes": 5, "planted": effect, "found_rate": share} for share, effect in planted]

    assert smallest_found(rates(0.1, 0.9, 1.0), CPU, 5) == 0.02
    assert smallest_found(rates(0.1, 0.899, 1.0), CPU, 5) == 0.04
    assert smallest_found(rates(1.0, 0.5, 1.0), CPU, 5) == 0.04
    assert smallest_found(rates(1.0, 1.0, 0.5), CPU, 5) is None
    assert smallest_found(rates(1.0, 1.0, 1.0), WALL, 5) is None


def test_the_same_raw_data_give_the_same_results_and_another_seed_other_draws():
    raw = made_up(processes=20, layout=0.015, seed=4)
    assert analyse(raw, ANALYSIS) == analyse(raw, ANALYSIS)
    assert analyse(raw, ANALYSIS) != analyse(raw, Analysis(ARMS, margin=0.02, comparisons=300, replays=60, seed=1))


def test_two_processes_are_enough_for_results_and_rules_that_need_more_say_nothing():
    found = analyse(made_up(processes=2), ANALYSIS)
    assert found["comparison_processes"] == 2
    assert row_of(found["rules"], metric=CPU, where="pyperf")["comparisons"] == 0
    assert row_of(found["rules"], metric=CPU, where="torchbench")["comparisons"] == 60


def test_device_time_takes_the_place_of_cpu_time_where_there_is_one():
    raw = made_up(processes=6)
    for process in raw:
        for arm in process["arms"].values():
            arm["device_ns"] = arm.pop("cpu_ns")
    assert analyse(raw, ANALYSIS)["metrics"] == [DEVICE, WALL]


def test_one_process_or_other_arms_are_refused_with_a_sentence():
    with pytest.raises(UsageError, match="hold 1 processes; a comparison needs at least 2"):
        analyse(made_up(processes=1), ANALYSIS)
    raw = made_up(processes=3)
    del raw[1]["arms"]["104"]
    with pytest.raises(UsageError, match="process 1 holds the arms"):
        analyse(raw, ANALYSIS)
