"""Retention and its verdict: held against Welch's t test, against trainings whose truth is known, and every way to be invalid."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from humar_bench.errors import UsageError
from humar_bench.judging.retention import (
    KEEPS,
    LOSES,
    Arm,
    chosen_rate,
    decide,
    fault,
    judge,
    judge_study,
    picture_variance,
    weigh,
)
from humar_bench.judging.statistics import INVALID, UNDECIDED

DRAWS = 400


def arm(name: str, *accuracy: float, noise: float = 0.002, gain: float = 0.01, seed: int = 0, **more: object) -> Arm:
    """Runs of these accuracies; all arms of one `seed` share what the drawn pictures do."""
    values = np.array(accuracy)
    shared = np.random.default_rng(seed).standard_normal((DRAWS, 1))
    return Arm(name, values, values * (1 - gain), values * np.exp(noise * shared) + np.zeros((DRAWS, len(values))), **more)


REFERENCE = arm("original", 0.600, 0.606, 0.594)
AGAIN = arm("original again", 0.603, 0.597, 0.601)


# The interval ---------------------------------------------------------------------------------------------------------------------


def test_without_uncertain_pictures_the_interval_is_welchs():
    one, other = np.array([0.60, 0.62, 0.59]), np.array([0.55, 0.58, 0.53, 0.57])
    found = weigh(one, other, 0.0, draws=1000)
    welch = stats.ttest_ind(np.log(other), np.log(one), equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((welch.low, welch.high), rel=1e-9)
    assert found.log_ratio == pytest.approx(np.log(other).mean() - np.log(one).mean())


def test_without_a_spread_over_seeds_the_interval_is_that_of_the_pictures():
    same = np.array([0.6, 0.6, 0.6])
    found = weigh(same, same, 0.01**2, draws=1000)
    reach = stats.t.ppf(0.975, 999) * 0.01
    assert (found.low, found.high, found.picture_error) == pytest.approx((-reach, reach, 0.01))
    assert found.seed_error == 0


def test_equal_runs_on_equal_pictures_are_exactly_equal():
    same = np.array([0.6, 0.6])
    found = weigh(same, same, 0.0, draws=1000)
    assert (found.low, found.high) == (0, 0) and decide(found.low, found.high, 1.0) == KEEPS


def test_what_makes_a_picture_hard_for_everybody_cancels():
    hard = np.random.default_rng(0).lognormal(0, 0.05, (DRAWS, 1))
    assert picture_variance(0.6 * hard + np.zeros(3), 0.5 * hard + np.zeros(3)) == pytest.approx(0, abs=1e-20)
    other = np.random.default_rng(1).lognormal(0, 0.05, (DRAWS, 1))
    assert picture_variance(0.6 * hard, 0.5 * other) == pytest.approx(2 * 0.05**2, rel=0.3)


def test_both_parts_are_added_up():
    one, other = np.array([0.60, 0.62, 0.59]), np.array([0.55, 0.58, 0.53])
    alone, both = weigh(one, other, 0.0, draws=1000), weigh(one, other, 0.05**2, draws=1000)
    assert both.high - both.low > alone.high - alone.low
    assert both.picture_error == pytest.approx(0.05) and both.seed_error == pytest.approx(alone.seed_error)


def test_one_call_weighs_many_trials():
    random = np.random.default_rng(0)
    one, other, variance = random.uniform(0.5, 0.7, (7, 3)), random.uniform(0.5, 0.7, (7, 4)), random.uniform(0, 1e-3, 7)
    together = weigh(one, other, variance, draws=100)
    for at in range(7):
        apart = weigh(one[at], other[at], variance[at], draws=100)
        assert [each[at] for each in together] == pytest.approx(list(apart))


# The verdict ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("accuracy", "verdict"), [
    ((0.599, 0.602, 0.601), KEEPS),
    ((0.500, 0.506, 0.503), LOSES),
    ((0.569, 0.575, 0.572), UNDECIDED),
    ((0.500, 0.620, 0.660), UNDECIDED),
])
def test_the_verdict_follows_the_interval(accuracy, verdict):
    found = judge(REFERENCE, arm("efficient", *accuracy))
    assert found.verdict == verdict, found
    assert found.low < found.value < found.high
    assert (found.low >= 0.95) == (verdict == KEEPS) and (found.high < 0.95) == (verdict == LOSES)
    assert found.reason.endswith(".") and "95 % interval" in found.reason


def test_the_value_is_the_ratio_of_geometric_means():
    found = judge(arm("a", 0.4, 0.9), arm("b", 0.3, 0.3))
    assert found.value == pytest.approx(0.3 / 0.6)


def test_another_margin_another_verdict():
    keeps = arm("efficient", 0.569, 0.575, 0.572)
    assert judge(REFERENCE, keeps, margin=0.90).verdict == KEEPS
    assert judge(REFERENCE, keeps, margin=0.99).verdict == LOSES


def test_undecided_says_what_would_narrow_it():
    assert "more seeds" in judge(REFERENCE, arm("efficient", 0.52, 0.60, 0.66)).reason
    noisy = arm("efficient", 0.6, 0.6, 0.6, noise=0.1, seed=1)
    assert "more pictures" in judge(REFERENCE, noisy).reason


def test_one_run_has_no_interval():
    found = judge(REFERENCE, arm("efficient", 0.3))
    assert (found.verdict, found.low, found.high) == (UNDECIDED, None, None) and "another seed" in found.reason
    assert judge(arm("original", 0.6), arm("efficient", 0.6, 0.6)).verdict == UNDECIDED


# Invalid --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reference", "candidate", "floor", "said"), [
    (REFERENCE, arm("efficient", 0.6, 0.6, gain=0.05), 0.0, "efficient was still climbing: the last fifth of the schedule added 5.0 %"),
    (arm("original", 0.6, 0.6, gain=0.031), arm("efficient", 0.6, 0.6), 0.0, "original was still climbing"),
    (REFERENCE, arm("efficient", 0.2, 0.25), 0.3, "efficient scored 0.225, below 0.300"),
    (REFERENCE, arm("efficient", 0.6, 0.6), 0.7, "original scored 0.600, below 0.700"),
    (arm("original", 0.6, 0.6, rate_at_edge=True), arm("efficient", 0.6, 0.6), 0.0, "the learning rate of the reference original"),
    (REFERENCE, arm("efficient", 0.6, 0.0), 0.0, "a run of efficient scored 0 or no number"),
    (REFERENCE, arm("efficient", 0.6, math.nan), 0.0, "a run of efficient scored 0 or no number"),
])
def test_runs_that_cannot_answer_are_invalid(reference, candidate, floor, said):
    found = judge(reference, candidate, floor=floor)
    assert (found.verdict, found.low, found.high) == (INVALID, None, None)
    assert said in found.reason


def test_the_rules_have_edges():
    assert not fault(arm("a", 0.6, 0.6, gain=0.0299), floor=0.0, is_reference=True)
    assert not fault(arm("a", 0.3, 0.3), floor=0.29999, is_reference=True)
    assert not fault(arm("a", 0.6, 0.6, rate_at_edge=True), floor=0.0, is_reference=False)  # of a candidate it is said beside it


def test_a_draw_of_pictures_without_a_hit_is_invalid_and_no_crash():
    candidate = arm("efficient", 0.6, 0.6)
    drawn = candidate.drawn.copy()
    drawn[3, 1] = 0
    assert judge(REFERENCE, dataclasses.replace(candidate, drawn=drawn)).verdict == INVALID


def test_an_arm_whose_parts_do_not_fit_is_refused():
    with pytest.raises(UsageError, match="make them fit"):
        Arm("a", np.array([0.5, 0.6]), np.array([0.5]), np.zeros((4, 2)))
    with pytest.raises(UsageError, match="make them fit"):
        Arm("a", np.array([]), np.array([]), np.zeros((4, 0)))


# The study ------------------------------------------------------------------------------------------------------------------------


def test_candidates_are_held_against_the_runs_of_reference_and_control():
    candidate = arm("efficient", 0.599, 0.602, 0.601)
    found = judge_study(REFERENCE, [candidate], AGAIN)
    assert list(found) == ["original again", "efficient"]
    assert found["original again"].verdict == KEEPS and found["original again"].reference_runs == 3
    assert found["efficient"] == judge(REFERENCE.plus(AGAIN), candidate) and found["efficient"].reference_runs == 6
    assert found["efficient"].high - found["efficient"].low < judge(REFERENCE, candidate).high - judge(REFERENCE, candidate).low


def test_a_control_that_loses_makes_everything_invalid():
    found = judge_study(REFERENCE, [arm("efficient", 0.6, 0.601, 0.602)], arm("original again", 0.5, 0.501, 0.499))
    assert found["original again"].verdict == LOSES
    assert (found["efficient"].verdict, found["efficient"].low) == (INVALID, None) and "equal architectures" in found["efficient"].reason


def test_an_invalid_control_makes_everything_invalid():
    found = judge_study(REFERENCE, [arm("efficient", 0.6, 0.601, 0.602)], arm("original again", 0.6, 0.6, 0.6, gain=0.1))
    assert {each.verdict for each in found.values()} == {INVALID} and "still climbing" in found["efficient"].reason


def test_an_undecided_control_is_none_of_the_candidates_business():
    wide = arm("original again", 0.55, 0.6, 0.65)
    found = judge_study(REFERENCE, [arm("efficient", 0.2, 0.201, 0.202)], wide)
    assert found["original again"].verdict == UNDECIDED and found["efficient"].verdict == LOSES


# Learning rates -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "chosen"), [
    ({1e-4: 0.3, 3e-4: 0.5, 1e-3: 0.4}, (3e-4, False)),
    ({1e-3: 0.5, 1e-4: 0.3, 3e-4: 0.4}, (1e-3, True)),
    ({1e-4: 0.5, 3e-4: 0.4, 1e-3: 0.3}, (1e-4, True)),
    ({1e-4: 0.1, 3e-4: 0.4, 1e-3: 0.4, 3e-3: 0.2}, (3e-4, False)),
    ({1e-4: math.nan, 3e-4: 0.4, 1e-3: math.nan}, (3e-4, False)),
    ({3e-4: 0.4}, (3e-4, True)),
])
def test_the_best_rate_of_a_grid(grid, chosen):
    assert chosen_rate(grid) == chosen


@pytest.mark.parametrize(("error", "chosen"), [(0.004, 1e-3), (0.006, 5e-4), (0.06, 2.5e-4)])
def test_of_rates_that_pictures_cannot_tell_apart_the_lowest_is_chosen(error, chosen):
    """As far down from the best as each next one is within its error, and no further: 1e-4 is good, and 2.5e-4 lies between."""
    grid = {2.5e-4: 0.275, 5e-4: 0.325, 1e-3: 0.330, 2e-3: 0.1}
    assert chosen_rate(grid, lambda rate: {1e-3: error}[rate]) == (chosen, False)
    assert chosen_rate({1e-4: 0.329, 2.5e-4: 0.1, **{rate: grid[rate] for rate in (5e-4, 1e-3)}}, lambda rate: 0.006)[0] == 5e-4


def test_an_edge_is_where_the_best_lies_and_not_where_the_chosen_does():
    grid = {2.5e-4: 0.329, 5e-4: 0.330, 1e-3: 0.1}
    assert chosen_rate(grid, lambda rate: 0.01) == (2.5e-4, False)
    assert chosen_rate({5e-4: 0.1, 1e-3: 0.329, 2e-3: 0.330}, lambda rate: 0.01) == (1e-3, True)


def test_an_empty_grid_is_refused():
    with pytest.raises(UsageError, match="grid of learning rates is empty"):
        chosen_rate({})
