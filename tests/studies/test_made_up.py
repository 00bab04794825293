"""Error rates of the verdict on retention, by trainings whose truth is known. The quick ones here; all of docs/accuracy.md's are slow."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks import retention as page
from humar_bench.judging.retention import KEEPS, LOSES, picture_variance
from humar_bench.judging.statistics import INVALID, UNDECIDED, binomial_upper
from humar_bench.studies.accuracy.made_up import TRUTHS, World, arms, bootstrapped, rates, table, verdict_of, weights_of, wrong_word


@pytest.mark.parametrize("retention", TRUTHS)
def test_verdicts_are_rarely_wrong_with_three_seeds(retention):
    found = rates(World(spread=0.02), retention, seeds=3, pictures=500, trials=400)
    assert binomial_upper(round(found.wrong * 400), 400) <= 0.065  # 2.5 % asked; what 400 trials can show
    assert found.covered >= 0.92
    assert found.keeps + found.loses + found.undecided == pytest.approx(1)


def test_resampling_three_seeds_is_too_sure_of_itself():
    """Why the interval is Student's t: the plain hierarchical bootstrap holds the truth in far fewer than 95 %."""
    found = rates(World(spread=0.04), 0.95, seeds=3, pictures=500, trials=400)
    assert found.covered_bootstrap < 0.89 < 0.92 < found.covered


def test_more_seeds_decide_more():
    few, many = (rates(World(spread=0.02), 1.0, seeds=seeds, pictures=500, trials=300).keeps for seeds in (3, 8))
    assert many > few + 0.2


def test_arms_that_spread_differently_do_not_mislead():
    for own, other in ((0.01, 0.04), (0.04, 0.01)):
        for retention in (0.95, 0.90):
            found = rates(World(spread=own, spread_candidate=other), retention, seeds=3, pictures=500, trials=400)
            assert found.wrong <= 0.065 and found.covered >= 0.90


def test_the_whole_judgement_sees_made_up_curves():
    sizes = {"seeds": 4, "pictures": 1000}
    calm, climbing = World(spread=0.003), World(spread=0.003, rate=2.0)
    assert [verdict_of(calm, truth, **sizes) for truth in (1.0, 0.9)] == [KEEPS, LOSES]
    assert verdict_of(World(spread=0.05), 0.96, **sizes) == UNDECIDED
    assert {verdict_of(climbing, truth, **sizes) for truth in TRUTHS} == {INVALID}


def test_made_up_scores_have_the_means_and_the_spread_they_should():
    random, world = np.random.default_rng(0), World(accuracy=0.61)
    scores = world.scores(random, np.array([[0.61, 0.58]]), 200_000)
    assert scores.mean(-1) == pytest.approx(np.array([[0.61, 0.58]]), abs=0.002)
    assert scores[0, 0].std() == pytest.approx(0.26, abs=0.01)  # of average precision over ten OKS thresholds
    assert np.corrcoef(scores[0])[0, 1] == pytest.approx(0.8, abs=0.02)


def test_made_up_pictures_are_as_uncertain_as_a_pilots():
    """1,000 pictures: one accuracy of 0.61 known to +-0.016, the ratio of two to +-1.6 %."""
    random, world = np.random.default_rng(0), World()
    scores = world.scores(random, np.full((1, 2), 0.61), 1000)
    drawn = np.matmul(weights_of(random, 1000, 500), scores.transpose(0, 2, 1)).astype(float)
    assert 1.96 * drawn[0, :, 0].std() == pytest.approx(0.016, abs=0.002)
    assert 1.96 * picture_variance(drawn[..., :1], drawn[..., 1:]) ** 0.5 == pytest.approx(0.016, abs=0.003)


def test_the_bootstrap_that_is_compared_draws_runs():
    random = np.random.default_rng(0)
    reference, candidate = np.full((1, 4000, 2), 0.6), np.tile([0.5, 0.7], (1, 4000, 1))
    low, high = bootstrapped(random, reference, candidate)
    assert (low[0], high[0]) == pytest.approx((np.log(0.5 / 0.6), np.log(0.7 / 0.6)))


def test_a_study_of_made_up_arms_is_the_same_each_time():
    one, other = (arms(World(), 0.98, seeds=3, pictures=200, seed=5) for _ in range(2))
    assert all((a.drawn == b.drawn).all() for a, b in zip(one, other, strict=True))


def test_the_word_that_would_be_wrong():
    assert [wrong_word(truth) for truth in TRUTHS] == [LOSES, LOSES, LOSES, KEEPS]


def test_the_page_has_the_tables_of_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "SEEDS", (2,))
    monkeypatch.setattr(page, "PICTURES", (100,))
    monkeypatch.setattr(page, "SPREADS", (0.01,))
    page.PAGE.write_text(f"before\n{page.BEGIN}\nwas here\n{page.END}\nafter\n")
    page.main(["--write", "--trials", "20"])
    text = page.PAGE.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "was here" not in text
    assert "| 1 | 100 | 2 |" in text and "20 made-up studies" in text


@pytest.mark.slow
@pytest.mark.parametrize("spread", page.SPREADS)
def test_the_tables_of_the_page_are_made_again_and_no_rate_is_above_5_percent(spread):
    text = page.PAGE.read_text(encoding="utf-8")
    for row in table(spreads=(spread,), trials=400):
        first = row[0]
        assert max(each.wrong for each in row) <= 0.05, row
        # 93 % of studies, less what 400 of them show of it by chance (once in 1,000)
        assert 400 * min(each.covered for each in row) >= binom.ppf(0.001, 400, 0.93), row
        start = f"| {100 * first.spread:.0f} | {first.pictures:,} | {first.seeds} | "
        [line] = [each for each in text.splitlines() if each.startswith(start) and " / " in each]
        shown = [[int(cell) for cell in each.split(" / ")] for each in re.findall(r"\d+ / \d+ / \d+", line)]
        made = [[100 * each.keeps, 100 * each.undecided, 100 * each.loses] for each in row]
        assert np.abs(np.array(shown) - np.array(made)).max() <= 8, start  # the page's own trials are others, and these are 400
