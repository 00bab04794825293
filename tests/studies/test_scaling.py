"""Exponents from costs of known growth, exact counts against closed arithmetic, and how a range is planned, timed and told."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from humar_bench import cli
from humar_bench.args import ModelArgs, RunArgs, Workload
from humar_bench.errors import UsageError
from humar_bench.judging.growth import CLAIMED, THEORY, claim_holds, fit_power_law
from humar_bench.records.record import Run
from humar_bench.report.study import study_csv, study_json, study_markdown
from humar_bench.running import costs
from humar_bench.running.children import Outcome
from humar_bench.running.costs import EXACT, Point, exact_records
from humar_bench.running.plan import Plan
from humar_bench.studies.scaling import scaling
from humar_bench.studies.scaling.scaling import AXES, measure_scaling, parse_count, square_pyramid, values_of, work_at
from humar_bench.studies.scaling.tables import COSTS, Scaling
from humar_bench.subjects.registry import Architecture
from tests import closed_forms
from tests.golden import check_golden
from tests.golden.records import ENVIRONMENT, TIME

BOTH = (Architecture("original", "original", False), Architecture("efficient", "efficient", False))
ASKED = RunArgs()
X = (1000, 2000, 4000, 8000, 16000)


# Fits


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_a_pure_power_law_is_found_exactly(exponent):
    law = fit_power_law(X, [3.0 * x**exponent for x in X])
    assert law.exponent == pytest.approx(exponent, abs=1e-12) and law.coefficient == pytest.approx(3.0)
    assert law.last == pytest.approx(exponent) and law.high - law.low < 1e-9


def test_a_constant_cost_has_exponent_zero_and_no_dust():
    law = fit_power_law(X, [724] * 5)
    assert (law.exponent, law.low, law.high, law.last) == (0.0, 0.0, 0.0, 0.0)


def test_the_interval_of_noisy_costs_covers_the_true_exponent_as_often_as_it_says():
    rng = np.random.default_rng(0)
    noises = rng.normal(0, 0.1, (600, 5))
    laws = [fit_power_law(X, [2.0 * x**1.2 * math.exp(each) for x, each in zip(X, noise, strict=True)]) for noise in noises]
    covered = sum(law.low <= 1.2 <= law.high for law in laws) / len(laws)
    assert 0.92 < covered < 0.98


def test_a_constant_part_hides_the_order_and_the_largest_pair_comes_nearer():
    law = fit_power_law(X, [5000 + x for x in X])
    assert law.exponent < law.last < 1.0
    by_hand = (math.log(21000) - math.log(13000)) / math.log(2)
    assert law.last == pytest.approx(by_hand)


def test_two_points_give_an_exponent_without_interval_and_one_gives_nothing():
    law = fit_power_law((1, 10), (1, 100))
    assert law.exponent == pytest.approx(2.0) and law.low is None and law.high is None
    assert fit_power_law((1, 10), (1, 0)) is None
    assert fit_power_law((5, 5), (1, 2)) is None


def test_a_claimed_order_is_held_against_the_end_of_the_range():
    law = fit_power_law(X, [5000 + x for x in X])
    assert claim_holds(1, fit_power_law(X, X)) and not claim_holds(2, fit_power_law(X, X)) and not claim_holds(2, law)


# The plan


def test_a_range_is_geometric_with_both_ends_in_it():
    assert values_of(AXES["tokens"]) == (1024, 2048, 4096, 8192, 16384, 32768)
    assert values_of(AXES["queries"], 10, 1000, 3) == (10, 100, 1000)


@pytest.mark.parametrize(("given", "said"), [((9, 9, None), "--from is 9 and --to is 9"), ((1, 9, 2), "--points is 2")])
def test_a_range_that_is_none_is_refused(given, said):
    with pytest.raises(UsageError, match=said):
        values_of(AXES["batch"], *given)


def test_ends_may_be_written_in_thousands():
    assert (parse_count("32k", "--to"), parse_count("300", "--to"), parse_count("+1K", "--to")) == (32768, 300, 1024)
    for text in ("", "k", "1.5k", "1_0", " 5", "\uff15", "1 k", "nan", "9" * 5000):
        with pytest.raises(UsageError, match=r"--from is .*; it must be a whole number, such as 300 or 32k\."):
            parse_count(text, "--from")
    for text in ("0", "-3", "0k", "9" * 31):
        with pytest.raises(UsageError, match=r"--from is .*; it must be from 1 to 9,007,199,254,740,991\."):
            parse_count(text, "--from")


@pytest.mark.parametrize("tokens", [50, 1024, 5000, 32768])
@pytest.mark.parametrize("levels", [1, 4])
def test_a_pyramid_is_square_halves_and_comes_near_the_tokens_asked(tokens, levels):
    sizes = square_pyramid(tokens, levels)
    assert len(sizes) == levels and all(height == width for height, width in sizes)
    assert all(math.ceil(one / 2) == other for (one, _), (other, _) in zip(sizes, sizes[1:], strict=False))
    side = sizes[0][0]
    assert abs(sum(h * w for h, w in sizes) - tokens) <= 1.34 * (2 * side + 3)


def test_each_axis_changes_its_own_quantity_and_args_and_workload_agree():
    args, work = ModelArgs(num_feature_levels=4), Workload.tiny()
    for name, value in (("tokens", 200), ("queries", 7), ("batch", 3), ("keypoints", 9)):
        new_args, new_work = work_at(AXES[name], value, args, work)
        assert new_work.num_queries == (7 if name == "queries" else 5)
        assert new_work.batch == (3 if name == "batch" else 2)
        assert (new_work.feature_sizes != work.feature_sizes) == (name == "tokens")
        assert new_args.num_body_points == (9 if name == "keypoints" else 17)
    assert work_at(AXES["queries"], 7, args, work)[0].num_queries == 7


def test_every_axis_has_an_order_for_every_cost_of_both_architectures():
    for axis in (name for name, each in AXES.items() if not each.whole):
        assert set(THEORY[axis]) == {"original", "efficient"}
        for orders in THEORY[axis].values():
            assert {cost.theory for cost in COSTS} <= set(orders)
    assert CLAIMED["tokens"] == {"original": 2, "efficient": 1}


# Made-up records -----------------------------------------------------------------------------------------------------------------


def made_up(point: Point, run: RunArgs = ASKED, *, flops: float = 1.0, timed: bool = True) -> list:
    """Records whose FLOPs and bytes are 1000 N^flops and whose times are 1 us N."""
    n = point.workload.tokens
    values = {
        "params": {"total": 5000}, "flops": {"matmul_flops": round(1000 * n**flops), "kernels": 100},
        "memory": {"predicted_bytes": 64 * n, "peak_bytes": 64 * n}, "fps": {"wall_s": [n * 1e-6] * 3, "cpu_s": [n * 2e-6] * 3, "batch": 1},
    }
    result = {"status": "ok", "kind": "", "reason": "", "built": {}}
    records = [point.record(each, run, {**result, "measured": values[each]}, ENVIRONMENT, "humar-bench scaling") for each in values
               if timed or each != "fps"]
    return [dataclasses.replace(each, time=TIME, id="") for each in records]


def points(sides=(10, 20, 40), architectures=BOTH) -> list[Point]:
    args = ModelArgs(num_feature_levels=1)
    return [Point(each, args, Workload("made up", 1, 20, ((side, side),))) for side in sides for each in architectures]


def test_exponents_come_out_of_records_and_the_screen_is_golden():
    records = [each for point in points() for each in made_up(point, flops=1.0 if point.architecture.name == "efficient" else 1.1)]
    study = Scaling(Run(tuple(records)), "tokens")
    assert study.law("original", "matmul_flops").exponent == pytest.approx(1.1, abs=1e-4)
    assert study.law("efficient", "peak_bytes").last == pytest.approx(1.0)
    assert study.law("efficient", "parameters").exponent == 0
    rows = {(row["cost"], row["architecture"]): row for row in study.data["exponents"].rows}
    assert rows["matmul and conv", "original"]["published"] == "O(N^2): does not hold"
    assert rows["matmul and conv", "efficient"]["published"] == "O(N): holds"
    check_golden("scaling.md", study_markdown(study))


def test_csv_and_json_hold_exponents_and_points():
    study = Scaling(Run(tuple(each for point in points() for each in made_up(point))), "tokens")
    exponents, data = study_csv(study).split("\n\n")
    assert exponents.startswith("cost,unit,architecture,exponent,low,high,last,")
    assert len(exponents.splitlines()) == 1 + 2 * len(study.costs)
    assert data.splitlines()[1].startswith("original,100,5000,100000,100,6400,") and len(data.splitlines()) == 7
    assert '"over": "tokens"' in study_json(study)


def test_points_the_budget_did_not_reach_and_failures_are_said():
    some = [each for point in points() for each in made_up(point, timed=point.workload.tokens < 1000)]
    failed = {"status": "failed", "kind": "timeout", "reason": "it took too long.", "measured": None}
    lost = points()[-1].record("fps", RunArgs(), failed, {})
    study = Scaling(Run((*some, lost)), "tokens")
    assert study.untimed == {"original": [1600]}
    feet = " ".join(study.tables[0].feet)
    assert "Not timed within the budget: original at 1,600" in feet
    assert study.failures == ("fps of efficient at 1,600 tokens failed: timeout: it took too long.",) and study.failures[0] in feet


# Timing, on a clock of its own


class FakeBench:
    """Every point takes `seconds` of a clock that only it moves."""

    def __init__(self, seconds) -> None:
        self.seconds, self.clock_s, self.calls, self.runs = seconds, 0.0, [], []

    def __call__(self, architectures, args, workload, measures, run, **more) -> Run:
        [architecture] = architectures
        assert measures == ["fps"] and run.processes == 1 and not run.control
        self.calls.append((architecture.name, workload.tokens))
        self.runs.append(run)
        self.clock_s += self.seconds(architecture.name, workload.tokens)
        made = made_up(Point(architecture, args, workload), run)[-1]
        wall_s = self.seconds(architecture.name, workload.tokens) / scaling.FORWARDS
        return Run((dataclasses.replace(made, measured={**made.measured, "wall_s": [wall_s]}, id=""),))


def timed(bench: FakeBench, budget_s: float, done: Run | None = None, values=(100, 400, 1600)) -> Scaling:
    plan = Plan(BOTH, "original", ModelArgs(num_feature_levels=1), Workload("x", 1, 20, ((10, 10),)), RunArgs())

    def exact(points, run, **more):
        return [each for point in points
                for each in made_up(point, run, flops=1.0 if point.architecture.name == "efficient" else 1.2, timed=False)]

    return measure_scaling(plan, AXES["tokens"], values, budget_s=budget_s, done=done, exact=exact, bench=bench, now=lambda: bench.clock_s)


def test_with_time_enough_every_point_is_timed_the_cheap_architecture_first():
    bench = FakeBench(lambda name, n: n / 100)
    study = timed(bench, 1000)
    assert bench.calls == [(name, n) for name in ("efficient", "original") for n in (100, 400, 1600)]
    assert not study.untimed and study.law("efficient", "wall_s").points == 3


def test_a_slow_architecture_stops_at_its_share_and_does_not_take_the_others_points():
    bench = FakeBench(lambda name, n: (n if name == "original" else 1.0) / 10)
    study = timed(bench, 120)
    assert study.untimed == {"original": [1600]}
    assert bench.clock_s < 120


def test_the_smallest_point_is_timed_even_without_a_budget():
    bench = FakeBench(lambda name, n: 50.0)
    assert timed(bench, 1).untimed == {"original": [400, 1600], "efficient": [400, 1600]}


def test_a_resumed_study_times_only_what_is_missing():
    first = FakeBench(lambda name, n: n / 100)
    whole = timed(first, 1000)
    kept = Run(tuple(each for each in whole.run if each.measure != "fps" or each.architecture != "original"))
    second = FakeBench(lambda name, n: n / 100)
    assert timed(second, 1000, kept).data["points"].rows == whole.data["points"].rows
    assert second.calls == [("original", n) for n in (100, 400, 1600)]


# Exact counts, in a real child


def test_exact_costs_of_a_real_child_are_those_of_closed_arithmetic(tiny_args, monkeypatch):
    args = dataclasses.replace(tiny_args, num_feature_levels=2)
    works = [work_at(AXES["tokens"], tokens, args, Workload("x", 2, 5, ((6, 6), (3, 3)))) for tokens in (60, 240)]
    asked = [Point(each, *work) for work in works for each in BOTH]
    kept: list = []
    records = exact_records(asked, RunArgs(), keep=lambda *made: kept.extend(made))
    assert [each.measure for each in records] == [*EXACT] * 4 and kept == records
    for point, (_, flops, memory) in zip(asked, zip(*[iter(records)] * 3, strict=True), strict=True):
        form = getattr(closed_forms, point.architecture.name)
        expected = form(dataclasses.asdict(args), 2, 5, list(point.workload.feature_sizes))
        assert flops.ok and flops.measured["matmul_flops"] == sum(expected.values())
        assert memory.ok and memory.measured["peak_bytes"] == memory.measured["predicted_bytes"] > 0
    monkeypatch.setattr(costs, "Child", lambda *given, **more: pytest.fail("nothing is missing"))
    assert exact_records(asked, RunArgs(), done=Run(tuple(records))) == records


def test_a_child_that_dies_is_a_failed_record_for_each_of_its_points(monkeypatch):
    crashed = Outcome(None, "crash", "it crashed.")
    monkeypatch.setattr(costs, "run_children", lambda children, at_once: [(None, crashed)])
    records = exact_records(points((10,)), RunArgs())
    assert [(each.status, each.kind) for each in records] == [("failed", "crash")] * 6


# The command


@pytest.mark.parametrize(("typed", "said"), [
    (["--over", "layers"], "over is 'layers'; choose one of tokens, pixels, caption, queries, batch, keypoints"),
    (["--from", "x"], "--from is 'x'"),
    (["--plot", "curves.gif"], "--plot is 'curves.gif'; it must end in .png or .svg"),
    (["--budget", "0"], "--budget is 0"),
    (["--budget", "soon"], "--budget is 'soon'"),
    (["--to", "30", "--from", "10"], "num_queries 20 is more than the"),
])
def test_what_cannot_be_measured_is_refused_in_one_sentence(typed, said, capsys):
    assert cli.main(["scaling", *typed]) == 2
    out, err = capsys.readouterr()
    assert not out and said in err and len(err.splitlines()) == 1


def test_the_command_writes_records_tables_and_curves_into_a_folder(in_process, tmp_path, capsys):
    typed = ["scaling", "--from", "60", "--to", "240", "--points", "3", "--no-time", "--workload", "tiny", "--set", "hidden_dim=32",
             "--device", "cpu", "--csv", "-", "--arch", "efficient", "-o", str(tmp_path / "out")]
    assert cli.main(typed) == 0
    assert "matmul and conv,FLOP,efficient,0." in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "records.jsonl", "study.json", "scaling.md", "scaling.png", "scaling.svg", "exponents.csv", "points.csv"
    }
    assert cli.main(typed) == 2
    assert "already holds records" in capsys.readouterr().err
