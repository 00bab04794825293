"""Which of many like arms is ahead after one budget: intervals by hand, and how often equal arms are told apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from humar_bench.judging.early import LESS, MORE, judge_early
from humar_bench.judging.retention import Arm
from humar_bench.judging.statistics import INVALID, UNDECIDED


def arm(name: str, accuracy, draws: int = 50) -> Arm:
    """Runs whose pictures leave nothing uncertain."""
    accuracy = np.asarray(accuracy, float)
    return Arm(name, accuracy, accuracy / 2, np.tile(accuracy, (draws, 1)))


def test_the_interval_is_students_with_the_spread_of_all_arms():
    default, others = arm("default", [0.4, 0.44]), [arm("b", [0.5, 0.51]), arm("c", [0.3, 0.36])]
    found = judge_early(default, others)
    logs = [np.log(each.accuracy) for each in (default, *others)]
    spread = math.sqrt(np.mean([each.var(ddof=1) for each in logs]))  # three degrees of freedom
    gap, reach = logs[1].mean() - logs[0].mean(), stats.t.ppf(0.975, 3) * spread
    assert found["b"].ratio == pytest.approx(math.exp(gap))
    assert (found["b"].ratio_low, found["b"].ratio_high) == pytest.approx((math.exp(gap - reach), math.exp(gap + reach)))
    own = stats.t.ppf(0.975, 3) * spread / math.sqrt(2)
    assert (found["c"].low, found["c"].high) == pytest.approx((math.exp(logs[2].mean() - own), math.exp(logs[2].mean() + own)))
    assert found["default"].ratio is None and found["default"].verdict == "" and found["default"].accuracy == pytest.approx(0.4 * 1.1**0.5)


def test_pictures_widen_the_interval_unless_all_arms_find_the_same_ones_hard():
    default, other = arm("default", [0.4, 0.41]), arm("b", [0.4, 0.41])
    still = judge_early(default, [other])["b"]
    hard = np.exp(0.05 * np.random.default_rng(0).standard_normal((50, 1)))
    shared = [Arm(each.name, each.accuracy, each.before, each.drawn * hard) for each in (default, other)]
    assert judge_early(shared[0], shared[1:])["b"].ratio_high == pytest.approx(still.ratio_high)
    assert judge_early(shared[0], shared[1:])["b"].high > still.high
    assert judge_early(default, shared[1:])["b"].ratio_high > still.ratio_high


def test_one_run_each_has_no_interval_and_a_run_that_scored_nothing_is_invalid():
    found = judge_early(arm("default", [0.4]), [arm("b", [0.2])])
    assert found["b"].ratio == pytest.approx(0.5) and found["b"].ratio_low is None and found["b"].verdict == UNDECIDED
    found = judge_early(arm("default", [0.4, 0.41]), [arm("b", [0.0, 0.4]), arm("c", [0.2, 0.21])])
    assert (found["b"].verdict, found["b"].ratio, found["c"].verdict) == (INVALID, None, LESS)


@pytest.mark.parametrize("runs", [2, 3])
def test_equal_arms_are_rarely_told_apart_and_large_differences_mostly_are(runs):
    random, studies, arms = np.random.default_rng(runs), 400, 10
    told = found = 0
    for _ in range(studies):
        made = [arm(f"{index}", 0.4 * np.exp(0.03 * random.standard_normal(runs))) for index in range(arms)]
        default = made[0].plus(arm("again", 0.4 * np.exp(0.03 * random.standard_normal(runs))))
        better = arm("better", 0.4 * 1.2 * np.exp(0.03 * random.standard_normal(runs)))
        verdicts = {name: each.verdict for name, each in judge_early(default, [*made[1:], better]).items()}
        told += any(each in (MORE, LESS) for name, each in verdicts.items() if name != "better")
        found += verdicts["better"] == MORE
    assert told / studies <= 0.05 + 0.025 and found / studies >= 0.9
