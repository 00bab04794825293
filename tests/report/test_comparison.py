"""Records become ratios in words, failures become rows, and nothing is made up where nothing was measured."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from humar_bench.args import ModelArgs
from humar_bench.errors import UsageError
from humar_bench.records.record import Run
from humar_bench.report.comparison import asked_text, built_text, compare
from humar_bench.table import Column, Table, fewer, less, percent, ratio, times
from tests.golden.records import COMPONENTS, FLOPS, WORKLOAD, failed, flops, fps, made_up_run, memory, params


def table(comparison, name: str) -> Table:
    return next(each for each in comparison.tables if each.name == name)


def row(found: Table, key: str) -> dict:
    """The row whose first cell is `key`."""
    return next(dict(each) for each in found.rows if each[found.columns[0].key] == key)


@pytest.mark.parametrize(("reference", "candidate", "words"), [
    (27_343_636, 4_707_000, "5.81x fewer"), (100, 250, "2.50x more"), (5, 5, "the same"), (100, 99, "1.0 % fewer"),
    (100, 103, "3.0 % more"), (100_000, 99_999, "0.001 % fewer"), (0, 0, "the same"), (0, 4, "more"), (4, 0, "none left"),
    (None, 4, ""), (4, None, ""), (14_020, 100, "140x fewer"), (1234, 100, "12.3x fewer"), (9_999, 1_000, "10.0x fewer"),
])
def test_counts_compare_in_words(reference, candidate, words):
    assert fewer(reference, candidate) == words


@pytest.mark.parametrize(("reference", "candidate", "words"), [
    (100, 32, "68 % less"), (100, 112, "12 % more"), (100, 250, "2.50x more"), (100, 100, "the same"), (1000, 995, "0.50 % less"),
    (100_000, 100, "1,000x less"), (None, 1, ""), (1, None, ""), (0, 5, "more"), (5, 0, "none left"),
])
def test_amounts_compare_in_words(reference, candidate, words):
    assert less(reference, candidate) == words


def test_a_ratio_is_missing_where_a_side_is_missing():
    assert ratio(None, 2) is None and ratio(2, None) is None and ratio(2, 0) is None
    assert ratio(6, 2) == 3
    assert (times(2.5), times(12.34), times(99.96)) == ("2.50x", "12.3x", "100x")
    assert (percent(0.684), percent(0.0123), percent(0.00045)) == ("68 %", "1.2 %", "0.045 %")


def test_a_cell_without_a_value_is_empty_and_never_zero():
    column = Column("x", unit="MiB", digits=2, scale=2**20)
    assert column.show(None) == ""
    assert column.show(0) == "0.00"
    assert column.show(3 * 2**20) == "3.00"
    assert Column("n").show(1234567) == "1,234,567"
    assert Column("n").heading == "n" and column.heading == "x [MiB]"


def test_components_stand_side_by_side_and_end_in_the_total():
    found = table(compare(made_up_run()), "params_components")
    assert [each["part"] for each in found.rows] == ["encoder", "decoder", "heads", "local convolution", "total"]
    assert row(found, "local convolution") == {"part": "local convolution", "=original": None, "=efficient": 140_800, "~efficient": ""}
    assert row(found, "total") == {"part": "total", "=original": 27_343_636, "=efficient": 4_707_000, "~efficient": "5.81x fewer"}


@pytest.mark.parametrize(("measure", "amounts"), [("params", COMPONENTS), ("flops", FLOPS)])
def test_csv_rows_hold_raw_integers_and_the_total(measure, amounts):
    data = compare(made_up_run()).data[measure]
    assert data.rows[-1] | {} == {
        data.columns[0].key: "total", "original": sum(amounts["original"].values()), "efficient": sum(amounts["efficient"].values()),
        "original/efficient": sum(amounts["original"].values()) / sum(amounts["efficient"].values()),
        **({"original_second_tier": 5_000_000, "efficient_second_tier": 5_000_000} if measure == "flops" else {}),
    }


def test_the_reference_is_the_first_architecture_unless_one_is_named():
    run = made_up_run()
    assert compare(run).reference == "original"
    other = compare(run, reference="efficient")
    assert row(table(other, "params_components"), "total")["~original"] == "5.81x more"
    assert other.speeds["original"].words == "3.00x slower"
    with pytest.raises(UsageError, match="reference is 'old'; the run measured original, efficient."):
        compare(run, reference="old")


def test_the_order_of_the_columns_does_not_depend_on_which_process_was_done_first():
    one = Run((params("efficient"), params("theirs"), params("original")))
    other = Run((params("original"), params("theirs"), params("efficient")))
    assert compare(one).architectures == compare(other).architectures == ("original", "efficient", "theirs")
    assert compare(one).tables == compare(other).tables
    assert compare(one, reference="theirs").architectures == ("theirs", "original", "efficient")


def test_the_front_door_compares_again_and_again():
    import humar_bench

    for _ in range(2):
        assert humar_bench.compare(made_up_run(), reference="efficient").reference == "efficient"


def test_an_empty_run_is_refused():
    with pytest.raises(UsageError, match="holds no record"):
        compare(Run())


def test_records_of_different_work_are_not_compared():
    other = dataclasses.asdict(dataclasses.replace(WORKLOAD, batch=3))
    with pytest.raises(UsageError, match="the run mixes measurements with batch 2 and 3"):
        compare(Run((params("original"), params("efficient", workload=other))))


def test_speed_is_batch_over_the_median_of_all_wall_times():
    speed = compare(made_up_run()).speeds["efficient"]
    assert speed.fps == WORKLOAD.batch / speed.median_s == pytest.approx(2 / 0.3)
    assert (speed.processes, speed.rounds, speed.min_s, speed.first_call_s) == (5, 50, pytest.approx(0.294), 0.6)
    assert speed.cpu_median_s == pytest.approx(0.6) and speed.device_median_s is None
    assert speed.preempted_share == 0.1
    assert (speed.verdict, speed.words) == ("faster", "3.00x faster")
    assert speed.ratio == pytest.approx(3) and speed.ratio_low <= speed.ratio <= speed.ratio_high


def test_a_percentile_that_few_times_cannot_give_is_left_out_and_said():
    found = table(compare(made_up_run(processes=2)), "fps")
    assert all("p90_s" not in column.key for column in found.columns)
    assert any("p90 needs 44 times; original has 20, efficient has 20." in note for note in found.notes)
    assert compare(made_up_run(processes=5)).speeds["original"].p90_s is not None


def test_one_process_gives_no_interval_and_no_claim():
    speed = compare(made_up_run(processes=1)).speeds["efficient"]
    assert (speed.verdict, speed.ratio_low, speed.ratio_high) == ("undecided", None, None)
    assert speed.words == "undecided (medians: 3.00x faster)"


def test_equal_speeds_are_called_the_same_within_the_margin():
    run = Run(tuple(fps(name, process, spec="x") for process in range(5) for name in ("one", "two")))
    assert compare(run).speeds["two"].words == "same within 2 %"


def test_throttled_rounds_make_the_verdict_invalid():
    hot = [{"sm_clock_mhz": 1500, "throttled": True}] * 10
    records = [fps(name, process) for process in range(5) for name in ("original", "efficient")]
    changed = [dataclasses.replace(each, measured={**each.measured, "round_telemetry": hot}, id="") for each in records]
    speed = compare(Run(tuple(changed))).speeds["efficient"]
    assert speed.verdict == "invalid" and "throttled" in speed.why


def test_a_failed_architecture_is_a_row_that_says_why_and_the_other_is_kept():
    run = Run((
        params("original"), failed("params", "efficient"), flops("original"), failed("flops", "efficient", "timeout", "it took 9 s."),
        fps("original", 0), failed("fps", "efficient", "not finite", "hs_pose holds NaN."), memory("original"),
        failed("memory", "efficient", "out of memory", "it needed 9 GiB."),
    ))
    comparison = compare(run)
    assert comparison.failures == (
        "params of efficient failed: crash: the process ended with signal 11.", "flops of efficient failed: timeout: it took 9 s.",
        "fps of efficient failed: not finite: hs_pose holds NaN.", "memory of efficient failed: out of memory: it needed 9 GiB.",
    )
    for name, why in (("params", "signal 11"), ("flops", "9 s."), ("fps", "NaN"), ("memory", "9 GiB")):
        assert why in row(table(comparison, name), "efficient")["note"]
        assert row(table(comparison, name), "original").get("note", "") == ""
    assert row(table(comparison, "summary"), "parameters [M]") == {
        "quantity": "parameters [M]", "=original": "27.34", "=efficient": "failed", "~efficient": "",
    }
    assert comparison.data["params"].rows[-1] == {"component": "failed", "efficient": "crash: the process ended with signal 11."}
    assert row(comparison.data["memory"], "efficient")["status"] == "failed"
    assert comparison.to_pandas().loc["efficient", "failed"].startswith("crash")


def test_the_reference_itself_may_fail():
    comparison = compare(Run((failed("params", "original"), params("efficient"), failed("fps", "original"), fps("efficient", 0))))
    assert row(table(comparison, "params_components"), "total") == {
        "part": "total", "=original": None, "=efficient": 4_707_000, "~efficient": "",
    }
    assert comparison.speeds["efficient"].words == ""
    assert row(comparison.data["params"], "total")["efficient"] == 4_707_000


def test_a_process_that_failed_leaves_the_others_and_is_named():
    records = [fps(name, process) for process in range(3) for name in ("original", "efficient")]
    comparison = compare(Run((*records, failed("fps", "efficient", process=3), fps("original", 3))))
    speed = comparison.speeds["efficient"]
    assert (speed.processes, comparison.speeds["original"].processes) == (3, 4)
    assert speed.reason == "1 of 4 processes: crash: the process ended with signal 11."
    assert speed.verdict == "faster"


def test_a_measurement_made_again_replaces_the_failed_one():
    comparison = compare(Run((failed("params", "original"), params("original"), failed("fps", "original"), fps("original", 0))))
    assert not comparison.failures


def test_operators_that_were_not_counted_are_shouted():
    found = table(compare(Run((flops("original"), flops("theirs", uncounted=("their::op",))))), "flops")
    notes = found.notes
    assert row(found, "theirs")["against"].endswith("fewer (not all counted)")
    assert "theirs: NOT COUNTED, no formula is known: their::op (3 calls). Its total is a lower bound." in notes
    assert "Every operator was counted: original." in notes


def test_operators_without_matmul_are_shown_when_asked_for():
    run = made_up_run()
    assert "aten._softmax" not in [each["part"] for each in table(compare(run), "flops_operators").rows]
    assert "aten._softmax" in [each["part"] for each in table(compare(run, all_operators=True), "flops_operators").rows]


def test_other_counters_are_listed_with_what_they_missed():
    found = table(compare(made_up_run()), "flops_cross_checks")
    assert found.rows[0]["ratio"] == 0.5
    assert found.notes[0] == "fvcore on original: missed aten::scaled_dot_product_attention; it has no formula for that operator."


def test_dead_weight_and_shared_tensors_stand_below_the_parameters():
    notes = table(compare(made_up_run()), "params").notes
    assert "efficient: 4 parameters are read by no operator: decoder.layers.0.dead.weight." in notes
    assert "efficient: 1 tensor has several names and is counted once (a.weight = b.weight)." in notes


def test_what_was_asked_and_what_was_built_are_told_apart():
    asked = {"nheads": 8, "enc_layers": 6, "pre_norm": False, "efficient_nheads": 4}
    assert built_text(asked, {"nheads": 4, "enc_layers": 6, "efficient_nheads": 4}) == (
        "fixes nheads 4 (asked 8); does not use pre_norm; has of its own efficient_nheads 4"
    )
    assert built_text(asked, {"nheads": 8, "enc_layers": 6, "pre_norm": False}) == "built as asked"
    assert built_text(asked, {}) == "does not say what it made of the arguments"
    assert asked_text({"enc_layers": 4, "nheads": 8}) == "enc_layers=4, all else default"


@pytest.mark.parametrize(("since", "name", "was", "now"), [
    ("efficient_look_mlp", "efficient_cross_tokens", "instance", "none"), ("efficient_encoder_samples", "efficient_encoder_sets", 2, 1),
])
def test_what_was_a_default_when_it_was_asked_is_not_said(since, name, was, now):
    fields = {field: value for field, value in dataclasses.asdict(ModelArgs()).items() if field != since}
    assert asked_text({**fields, name: was}) == "default arguments"
    assert asked_text({**fields, name: now}) == f"{name}={now}, all else default"
    assert asked_text({**fields, since: getattr(ModelArgs(), since), name: was}) == f"{name}={was}, all else default"
    assert asked_text(dataclasses.asdict(ModelArgs())) == "default arguments"


def test_pandas_gets_one_row_an_architecture():
    frame = compare(made_up_run()).to_pandas()
    assert list(frame.index) == ["original", "efficient"]
    assert frame.loc["original", "parameters"] == 27_343_636
    assert frame.loc["efficient", "matmul_flops_ratio"] == pytest.approx(251_000_000_001 / 50_000_000_000)
    assert frame.loc["efficient", "verdict"] == "faster"


def test_three_architectures_are_each_held_against_the_reference():
    comparison = compare(made_up_run("original", "efficient", "theirs"))
    columns = [column.key for column in table(comparison, "params_components").columns]
    assert columns == ["part", "=original", "=efficient", "=theirs", "~efficient", "~theirs"]
    assert {"efficient", "theirs"} <= comparison.speeds.keys()


def test_a_table_turned_on_its_side_holds_the_same_cells():
    found = table(compare(made_up_run()), "params")
    turned = found.turned()
    assert [list(cells) for cells in zip(*[cells[1:] for cells in turned.cells()], strict=True)] == [cells[1:] for cells in found.cells()]


def test_comparing_needs_no_torch():
    code = "import sys, humar_bench.report.comparison, humar_bench.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_workload_at_less_than_its_own_batch_says_so():
    whole = made_up_run()
    small = Run(tuple(dataclasses.replace(each, workload={**each.workload, "name": "uniphd", "batch": 1}) for each in whole))
    assert any("Scaled down: batch 1 instead of the workload's own 2; --batch 2" in line for line in compare(small).conditions)
    assert not any("Scaled down" in line for line in compare(whole).conditions)


def explained(differences: list[dict], as_flops: int) -> list[tuple]:
    check = {"counter": "fvcore", "version": "1", "reported": as_flops // 2, "unit": "MAC", "as_flops": as_flops, "ratio": 0.5,
             "missed": [], "why": "a sentence of them all", "differences": differences}
    record = flops("original")
    found = compare(Run([dataclasses.replace(record, measured={**record.measured, "cross_checks": [check]}, id="")]))
    assert "a sentence of them all" not in str(table(found, "flops_cross_checks").feet)
    return [(row["where"], row["flops"], row["why"]) for row in table(found, "flops_explained").rows]


def test_what_a_counter_says_is_reached_from_ours_difference_by_difference_and_the_rest_is_shown():
    total = sum(FLOPS["original"].values())
    differences = [{"where": "aten::mm", "flops": -1_000, "why": "no rule"}, {"where": "aten::norm", "flops": 40, "why": "counted more"}]
    rows = explained(differences, total - 960)
    assert rows == [
        ("ours", total, ""), ("aten::mm", -1_000, "no rule"), ("aten::norm", 40, "counted more"), ("rest", 0, ""),
        ("fvcore says", total - 960, ""),
    ]
    assert sum(flops for _, flops, _ in rows[:-1]) == rows[-1][1]
    unexplained = [*differences, {"where": "(total)", "flops": -7, "why": "its parts do not add up to its total"}]
    assert explained(unexplained, total - 967)[3:] == [("rest", -7, ""), ("fvcore says", total - 967, "")]
    assert explained(differences, total - 967)[3:] == [("rest", -7, ""), ("fvcore says", total - 967, "")]
    assert "flops_explained" not in [each.name for each in compare(made_up_run()).tables]  # records of before
