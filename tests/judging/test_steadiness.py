"""Windows that agree, and the round from which on a series is steady."""

from __future__ import annotations

import math

import numpy as np
import pytest

from humar_bench.judging.steadiness import steady_state, windows_agree


@pytest.mark.parametrize(
    ("first", "second", "agree"),
    [([1.0, 1.0, 1.0], [1.049, 1.049, 1.049], True), ([1.0, 1.0], [1.06, 1.06], False), ([1.06, 1.06], [1.0, 1.0], False),
     ([1.0], [1.09], True), ([1.0], [1.11], False), ([1.0, 1.0, 9.0], [1.0, 1.0, 1.0], True)],
)
def test_windows_agree_by_their_medians(first, second, agree):
    assert windows_agree(first, second) is agree


def trace(random, changes, rounds=100, correlation=0.5):
    """Times with 2 % of correlated noise and spikes in 3 % of the rounds; `changes` are (round, added log level until then)."""
    logs = random.normal(0, 0.02, rounds)
    for at in range(1, rounds):
        logs[at] = correlation * logs[at - 1] + math.sqrt(1 - correlation**2) * logs[at]
    logs[1:] += (random.random(rounds - 1) < 0.03) * random.exponential(0.5, rounds - 1)
    for until, level in changes:
        logs[:until] += level
    return np.exp(logs)


def test_a_change_point_is_found_within_two_rounds(say):
    random, hits = np.random.default_rng(7), {}
    for name in ("step", "two phases", "none"):
        found = []
        for _ in range(300):
            end = int(random.integers(3, 40))
            phases = {"step": [(end, random.uniform(0.1, 1))], "two phases": [(end, 0.2), (int(random.integers(1, end)), 0.8)]}
            changes = phases.get(name, [])
            state = steady_state(trace(random, changes))
            found.append(state.steady and abs(state.start - (end if changes else 0)) <= 2)
        hits[name] = float(np.mean(found))
    say("steady state found within 2 rounds: " + ", ".join(f"{name} {rate:.1%}" for name, rate in hits.items()))
    assert min(hits.values()) >= 0.95


def test_what_never_settles_is_labelled(say):
    random, labelled = np.random.default_rng(8), []
    for at in range(300):
        drift = np.linspace(0, (-1) ** at * random.uniform(0.2, 0.5), 100)
        levels = np.repeat(random.permutation([0, 0.1, 0.2, 0.3, 0.4] * 2), 10)
        state = steady_state(trace(random, [], correlation=0.0) * np.exp(drift if at % 3 else levels))
        labelled.append(not state.steady and state.reason.startswith("never steady"))
    say(f"never steady: {np.mean(labelled):.1%} of 300 labelled")
    assert np.mean(labelled) >= 0.98


def test_a_slow_first_round_is_a_level_and_a_late_outlier_is_none():
    values = [1.0, 1.001] * 20
    assert steady_state([5.0, *values]).start == 1
    assert steady_state([*values[:30], 5.0, *values[30:]]).changes == ()
    assert steady_state([*values, 5.0]).changes == ()
    assert not steady_state([1.0] * 7).steady and steady_state([1.0] * 8).steady
