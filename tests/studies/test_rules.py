"""Other tools' rules on numbers small enough to judge by hand, and against scipy's own tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from humar_bench.studies.calibrate import rules
from humar_bench.studies.calibrate.rules import FASTER, NO_CALL, RULES, SLOWER

BY_NAME = {rule.name: rule.decide for rule in RULES}


def one_each(*values):
    """So many processes of one time each."""
    return [np.array([float(value)]) for value in values]


def one_process(*values):
    return [np.array(values, dtype=float)]


@pytest.mark.parametrize(("name", "reference", "candidate", "call"), [
    ("higher FPS by > 1 %", (1.0, 3.0), (2.03, 2.03), SLOWER),
    ("higher FPS by > 1 %", (1.0, 3.0), (2.01, 2.01), NO_CALL),
    ("higher FPS by > 1 %", (1.0, 3.0), (1.97, 1.97), FASTER),
    ("mean +-5 %", (10, 10, 40), (21.2, 21.2), SLOWER),
    ("mean +-5 %", (10, 10, 40), (20.8, 20.8), NO_CALL),
    ("mean +-5 %", (10, 10, 40), (18.8, 18.8), FASTER),
    ("min +-5 %", (10, 99), (10.6, 10.7), SLOWER),
    ("min +-5 %", (10, 99), (10.4, 500), NO_CALL),
    ("min +-5 %", (10, 99), (9.4, 500), FASTER),
    ("median +-7 %", (1, 10, 99), (0, 10.8, 11), SLOWER),
    ("median +-7 %", (1, 10, 99), (0, 10.6, 11), NO_CALL),
    ("median +-7 %", (1, 10, 99), (0, 9.2, 11), FASTER),
    ("[min, Q3] apart by 0.5 %", (8, 9, 10, 10, 50), (10.06, 11, 12, 13, 14), SLOWER),
    ("[min, Q3] apart by 0.5 %", (8, 9, 10, 10, 50), (10.04, 11, 12, 13, 14), NO_CALL),
    ("[min, Q3] apart by 0.5 %", (10.06, 11, 12, 13, 14), (8, 9, 10, 10, 50), FASTER),
    ("means further than noise", (9, 10, 11), (11, 12, 13), SLOWER),
    ("means further than noise", (9, 10, 11), (9.5, 10.5, 11.5), NO_CALL),
    ("means further than noise", (9, 10, 11), (7, 8, 9), FASTER),
])
def test_a_rule_on_one_process_a_side_calls_what_it_says(name, reference, candidate, call):
    assert BY_NAME[name](one_process(*reference), one_process(*candidate)) == call


@pytest.mark.parametrize(("candidate", "call"), [((11, 12, 13), SLOWER), ((10, 11, 12), NO_CALL), ((7.5, 8, 8.5), FASTER)])
def test_ratio_and_sigma_needs_the_ratio_a_sigma_away_from_1(candidate, call):
    # sigma: 1.2 x hypot(1/10, 1/12) = 0.156 < 0.2; 1.1 x hypot(1/10, 1/11) = 0.149 > 0.1; 0.8 x hypot(1/10, 0.5/8) = 0.094 < 0.2
    assert rules.ratio_and_sigma(one_each(9, 10, 11), one_each(*candidate)) == call


def test_ratio_and_sigma_takes_one_run_a_process_not_one_a_time():
    noisy = [np.array([1.0, 19.0]), np.array([2.0, 18.2])]  # means 10 and 10.1 whatever happens inside
    assert rules.ratio_and_sigma(noisy, one_each(12, 12.1)) == SLOWER


@pytest.mark.parametrize(("candidate", "call"), [((4, 5, 6), SLOWER), ((3, 4, 5), NO_CALL), ((1, 2, 3), NO_CALL)])
def test_the_pooled_t_of_1_2_3_calls_4_5_6_and_not_3_4_5(candidate, call):
    # t = 3.67 with 4 degrees of freedom is p = .021, t = 2.45 is p = .070
    assert rules.pooled_t(one_each(1, 2, 3), one_each(*candidate), values=1) == call
    assert rules.pooled_t(one_each(*candidate), one_each(1, 2, 3), values=1) == -call


def test_the_pooled_t_takes_three_values_a_process_as_if_each_were_a_process():
    reference = [np.repeat([10.0, 10.1, 10.2], 7), np.repeat([10.0, 10.1, 10.2], 7)]
    candidate = [np.repeat([10.2, 10.3, 10.4], 7), np.repeat([10.2, 10.3, 10.4], 7)]
    assert rules.pooled_t(reference, candidate) == SLOWER
    assert rules.welch_on_medians(reference[:1] + [reference[0] + 1], candidate[:1] + [candidate[0] + 1]) == NO_CALL


@pytest.mark.parametrize("equal_variance", [True, False])
def test_both_t_tests_agree_with_scipy(equal_variance):
    random = np.random.default_rng(0)
    calls = set()
    for _ in range(300):
        one, other = random.normal(10, 1, 7), random.normal(10 + random.choice([0, 1, -1.5]), 2, 5)
        p = stats.ttest_ind(one, other, equal_var=equal_variance).pvalue
        decide = (lambda a, b: rules.pooled_t(a, b, values=1)) if equal_variance else rules.welch_on_medians
        expected = NO_CALL if p >= 0.05 else (SLOWER if other.mean() > one.mean() else FASTER)
        assert decide(one_each(*one), one_each(*other)) == expected
        calls.add(expected)
    assert calls == {SLOWER, NO_CALL, FASTER}


def test_times_without_any_spread_differ_where_their_means_do():
    assert rules.welch_on_medians(one_each(1, 1), one_each(2, 2)) == SLOWER
    assert rules.pooled_t(one_each(1, 1), one_each(1, 1), values=1) == NO_CALL


def test_mann_whitney_needs_both_the_p_and_the_factor():
    ten = np.arange(10) / 100
    reference = [1 + ten[:5], 1 + ten[5:]]
    assert rules.mann_whitney(reference, [1.2 + ten[:5], 1.2 + ten[5:]]) == SLOWER
    assert rules.mann_whitney([1.2 + ten[:5], 1.2 + ten[5:]], reference) == FASTER
    assert rules.mann_whitney(reference, [1.1 + ten[:5], 1.1 + ten[5:]]) == NO_CALL  # all ten higher, medians 1.096 apart
    mixed = np.array([0.9, 0.95, 1.0, 1.3, 1.4])
    assert rules.mann_whitney(reference, [mixed, mixed + 0.3]) == NO_CALL  # medians 1.2 apart, p = .06


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_sees_a_doubled_time_from_both_sides_and_nothing_in_equal_times(rule):
    random = np.random.default_rng(1)
    reference = [random.normal(10, 0.1, 30) for _ in range(rule.processes)]
    doubled = [2 * random.normal(10, 0.1, 30) for _ in range(rule.processes)]
    assert rule.decide(reference, doubled) == SLOWER
    assert rule.decide(doubled, reference) == FASTER
    assert rule.decide(reference, reference) == NO_CALL


def test_at_least_five_rules_have_names_of_their_own():
    assert len({rule.name for rule in RULES}) == len(RULES) >= 5
