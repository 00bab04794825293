"""Runs that were lost in training are named, and what those keep that learned stands beside the verdict that counts them."""

from __future__ import annotations

import pytest

from humar_bench.studies.accuracy.lost import lost_feet, lost_of
from humar_bench.studies.accuracy.made_up import World
from tests.studies.made_up_study import Made, measured

ORIGINAL, EFFICIENT = "original", "efficient"


def test_a_run_below_half_of_the_median_is_lost():
    assert lost_of({1: 0.6, 2: 0.61, 3: 0.3, 4: 0.62}) == {3: 0.3}
    assert lost_of({1: 0.6, 2: 0.61, 3: 0.31, 4: 0.62}) == {}
    assert lost_of({}) == {} and lost_of({1: 0.0, 2: 0.0}) == {}


def test_what_is_kept_of_the_runs_that_learned_is_their_geometric_means_share():
    runs = {ORIGINAL: {1: 0.4, 2: 0.9, 3: 0.01, 4: 0.6}, EFFICIENT: {1: 0.3, 2: 0.3}}
    named, share = lost_feet(runs, ORIGINAL)
    assert named.startswith("original: 1 of 4 runs lost") and "(0.010 with seed 3)" in named
    assert f"efficient {100 * 0.3 / (0.4 * 0.9 * 0.6) ** (1 / 3):.1f} % of original" in share and "no verdict" in share


@pytest.mark.parametrize("runs", [
    {}, {ORIGINAL: {}}, {ORIGINAL: {1: 0.4}, EFFICIENT: {}}, {ORIGINAL: {1: 0.4, 2: 0.5}, EFFICIENT: {1: 0.2, 2: 0.3}},
])
def test_where_no_run_was_lost_nothing_is_said(runs):
    assert list(lost_feet(runs, ORIGINAL)) == []


@pytest.mark.parametrize("dead", [ORIGINAL, EFFICIENT])
def test_an_architecture_that_scores_nothing_at_all_has_no_share(dead):
    runs = {name: {1: 0.0, 2: 0.0, 3: 0.8} if name == dead else {1: 0.1, 2: 0.5, 3: 0.6} for name in (ORIGINAL, EFFICIENT)}
    assert len(list(lost_feet(runs, ORIGINAL))) == 1


def test_a_study_that_is_not_whole_names_lost_runs_and_no_share():
    assert len(list(lost_feet({ORIGINAL: {1: 0.5, 2: 0.5, 3: 0.1}, EFFICIENT: {1: 0.5}}, ORIGINAL, whole=False))) == 1


def test_a_candidate_without_runs_has_no_share():
    assert [each.split(":")[0] for each in lost_feet({ORIGINAL: {1: 0.5, 2: 0.5, 3: 0.1}, EFFICIENT: {}}, ORIGINAL)] == [ORIGINAL]


class Losing(Made):
    """The control's run with seed 5 hardly learns."""

    def measured(self, role, options):
        if role == "run" and options.seed == 5:
            return Made(world=World(spread=0.004, accuracy=0.15)).measured(role, options)
        return super().measured(role, options)


def test_the_controls_lost_run_is_one_of_the_references_and_counts(tmp_path):
    found = measured(Losing(), tmp_path)
    feet = "\n".join(found.tables[0].feet)
    assert "original: 1 of 6 runs lost in training" in feet and "with seed 5)" in feet
    assert found.by_seed[ORIGINAL].keys() == {1, 2, 3, 4, 5, 6} and found.by_seed[EFFICIENT].keys() == {1, 2, 3}
    alone = float(feet.split("no verdict: efficient ")[1].split(" %")[0])
    assert found.retention[EFFICIENT].value > 1.2 > 1.05 > alone / 100 > 0.95
