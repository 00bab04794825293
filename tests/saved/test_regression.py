"""Two saved runs: exact measures differ or do not, speed is judged over processes, and every way to end has its exit code."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from humar_bench import cli
from humar_bench.errors import UsageError
from humar_bench.judging.unpaired import EXCEEDED, KEPT, UNDECIDED, Shift, paired, unpaired
from humar_bench.records.record import Run
from humar_bench.records.writer import RecordWriter
from humar_bench.saved.limits import DEFAULT_LIMITS, parse_limits
from humar_bench.saved.regression import compare_runs
from tests.golden.records import BUILT, ENVIRONMENT, WORKLOAD, failed, flops, params
from tests.saved.made_up_runs import NAMES, changed, planted, row, speeds, whole

# Limits


def test_limits_are_read():
    assert parse_limits("slower:2%,memory:1%,params:0") == {"slower": 0.02, "memory": 0.01, "params": 0.0}
    assert parse_limits(" flops : 0.5% ") == {"flops": 0.005}


@pytest.mark.parametrize(("text", "said"), [
    ("", "'' is no limit; write NAME:SHARE, such as slower:2%"), ("slower", "'slower' is no limit"), ("slower:", "is no limit"),
    ("slower:2%,", "'' is no limit"), ("speed:2%", "names 'speed'; choose from slower, memory, params, flops"),
    ("slower:fast", "slower is 'fast'; write a share in percent"), ("slower:-1%", "slower is '-1%'; it must be 0 or more"),
    ("slower:nan%", "slower is 'nan%'; it must be 0 or more"), ("slower:2", "slower is '2', without a unit; write 2% for percent"),
    ("slower:1%,slower:2%", "gives slower twice"),
])
def test_limits_that_are_none_are_one_sentence(text, said):
    with pytest.raises(UsageError) as error:
        parse_limits(text)
    assert said in str(error.value) and str(error.value).endswith(".")


# Exact measures


def test_a_run_compared_with_itself_keeps_every_limit_to_the_last_digit():
    found = compare_runs(whole(), whole())
    assert found.exit_code == 0 and {each.gate for each in found.rows} == {KEPT} and {each.verdict for each in found.rows} == {"same"}
    assert found.verdict == "no regression: every limit is kept."
    assert {each.change for each in found.rows if each.measure != "fps"} == {"the same"}


@pytest.mark.parametrize("names", [NAMES, ("original",), ("efficient",)])
@pytest.mark.parametrize("processes", [1, 2, 5])
def test_a_planted_copy_ten_percent_slower_is_a_regression_and_one_faster_is_none(names, processes):
    run = whole(processes=processes, spread=0.2)  # however far apart the processes are
    found = compare_runs(run, planted(run, 1.1, *names))
    assert found.exit_code == 3 and {each.architecture for each in found.rows if each.gate == EXCEEDED} == set(names)
    assert row(found, names[0], "wall time").change == "10 % slower" and row(found, names[0], "wall time").basis == "the same processes"
    assert "records were changed after they were measured" in found.notes[0]
    assert compare_runs(run, planted(run, 1 / 1.1, *names)).exit_code == 0


def test_one_parameter_more_exceeds_a_limit_of_zero_and_names_its_component():
    run = whole()
    more = Run((changed(run[0], total=27_343_637, components={**run[0].measured["components"], "heads": 2_266_197}), *run.records[1:]))
    found = compare_runs(run, more)
    told = row(found, "original", "parameters")
    assert found.exit_code == 3 and told.gate == EXCEEDED and told.verdict == "more" and told.notes == ("by component: heads +1.",)
    assert told.change.endswith("more (+1)")
    assert compare_runs(more, run).exit_code == 0
    assert compare_runs(run, more, limits={"params": 0.01}).exit_code == 0
    assert compare_runs(run, more, limits={"slower": 0.02}).exit_code == 0


@pytest.mark.parametrize(("index", "key", "name", "limit"), [
    (2, "matmul_flops", "matmul and conv FLOPs", "flops"), (2, "second_tier_flops", "second-tier FLOPs", "flops"),
    (4, "peak_bytes", "peak", "memory"), (5, "weights_bytes", "weights", "memory"),
])
def test_a_limit_is_exceeded_just_above_it_and_kept_at_it(index, key, name, limit):
    old = whole()
    base = changed(old[index], **{key: 100_000})
    old = Run((*old.records[:index], base, *old.records[index + 1 :]))
    for value, gate in ((101_000, KEPT), (101_001, EXCEEDED), (1, KEPT)):
        new = Run((*old.records[:index], changed(base, **{key: value}), *old.records[index + 1 :]))
        assert row(compare_runs(old, new, limits={limit: 0.01}), base.architecture, name).gate == gate


def test_what_failed_is_invalid_and_what_was_not_measured_again_leaves_its_limit_open():
    run = whole()
    for lost in (0, 3, 5, 8):
        record = run[lost]
        one = failed(record.measure, record.architecture, "timeout", "it took longer than 5 s.", process=record.process)
        broken = Run((*run.records[:lost], one, *run.records[lost + 1 :]))
        for pair in ((run, broken), (broken, run)):
            found = compare_runs(*pair)
            assert found.exit_code == 5 and "invalid: " in found.verdict
            assert any("timeout: it took longer than 5 s." in note for note in found.table.notes)
    fewer = Run(tuple(each for each in run if each.measure != "memory"))
    found = compare_runs(run, fewer)
    assert found.exit_code == 4 and "not measured in NEW" in str(found.table.notes)
    assert compare_runs(fewer, run).exit_code == 0  # nothing was there before
    assert compare_runs(run, fewer, limits={"params": 0.0}).exit_code == 0


def test_a_third_architecture_is_no_reason_to_fail():
    run = whole()
    found = compare_runs(run, Run((*run, params("mine"))))
    assert found.exit_code == 0 and row(found, "mine", "parameters").verdict == "missing"


def test_runs_without_anything_in_common_are_refused():
    with pytest.raises(UsageError, match="no measurement in common"):
        compare_runs(Run((params("original"),)), Run((params("mine"),)))
    with pytest.raises(UsageError, match="no measurement in common"):
        compare_runs(Run((params("original"),)), Run((flops("original"),)))
    with pytest.raises(UsageError, match="OLD cannot be compared: the run holds no record"):
        compare_runs(Run(), whole())
    with pytest.raises(UsageError, match="--fail-on names slower and OLD holds nothing"):
        compare_runs(Run((params("original"),)), Run((params("original"),)), limits={"slower": 0.1})
    with pytest.raises(UsageError, match="reference is 'mine'; OLD holds original, efficient"):
        compare_runs(whole(), whole(), reference="mine")


# Other machines


@pytest.mark.parametrize(("where", "name", "value"), [
    ("environment", "cpu", "Other CPU"), ("environment", "torch", "2.12.0"), ("environment", "threads", 1),
    ("environment", "python", "3.12"), ("environment", "device_label", "GPU"), ("environment", "driver", "5"), ("workload", "batch", 3),
    ("workload", "padded", True), ("asked", "enc_layers", 2), ("run", "dtype", "float16"),
])
def test_other_machines_versions_and_work_are_refused_and_marked_where_asked_for(where, name, value):
    run = whole()
    other = Run(tuple(dataclasses.replace(each, id="", **{where: {**getattr(each, where), name: value}}) for each in run))
    with pytest.raises(UsageError, match=f"OLD was measured with {name} .* and NEW with {value}; .* add --across-machines"):
        compare_runs(run, other)
    found = compare_runs(run, other, across_machines=True)
    assert found.across == (name,)
    marked = [each["change"] for each in found.table.rows]
    assert marked and all(each.endswith(f" [across {name}]") for each in marked)
    assert any(f"OLD and NEW differ in {name}" in note for note in found.table.notes)


def test_load_commit_time_and_the_name_of_a_workload_are_no_other_machine():
    run = whole()
    environment = {**ENVIRONMENT, "load_1min": 7.0, "commit": "f" * 40, "dirty": True}
    other = [
        dataclasses.replace(each, id="", environment=environment, workload={**each.workload, "name": "custom"}, command="other")
        for each in run
    ]
    assert compare_runs(run, Run(tuple(other))).exit_code == 0


def test_a_child_that_died_knows_no_machine_and_is_not_taken_for_another_one():
    run = whole()
    broken = Run((dataclasses.replace(failed("params", "original"), environment={}, id=""), *run.records[1:]))
    assert compare_runs(run, broken).exit_code == 5


# Speed between runs that were not interleaved


def test_between_two_runs_the_ratio_against_the_reference_is_compared_and_the_reference_itself_is_the_yardstick():
    """The machine is 30 % slower in the second run: no row may say that the candidate is."""
    found = compare_runs(speeds(1), speeds(2, original=1.3, efficient=1.3))
    told = row(found, "efficient", "wall time")
    assert told.basis == "ratio against original" and told.gate == KEPT and found.exit_code == 0
    reference = row(found, "original", "wall time")
    assert reference.basis == "absolute times" and reference.gate == "" and "the reference itself came out 3" in reference.notes[0]
    slower = compare_runs(speeds(1), speeds(2, original=1.3, efficient=1.3 * 1.1))
    assert slower.exit_code == 3 and row(slower, "efficient", "CPU time").verdict == "slower"
    assert compare_runs(speeds(1), speeds(2), reference="efficient").rows[0].basis == "ratio against efficient"


def test_without_a_common_reference_absolute_times_are_compared_and_it_is_said():
    found = compare_runs(speeds(1, names=("efficient",)), speeds(2, names=("original", "efficient"), efficient=1.6))
    told = row(found, "efficient", "wall time")
    assert told.basis == "absolute times" and told.gate == EXCEEDED and row(found, "original", "speed").verdict == "missing"
    assert "so absolute times are compared" in found.notes[0]
    found = compare_runs(speeds(1), Run((*speeds(2, efficient=1.6), params("original"))), reference="original")
    assert row(found, "efficient", "wall time").basis == "ratio against original"
    built = {"original": {**BUILT["original"], "nheads": 1}, "efficient": BUILT["efficient"]}
    other = Run(tuple(dataclasses.replace(each, built=built[each.architecture], id="") for each in speeds(2, efficient=1.6)))
    found = compare_runs(speeds(1), other)
    told = row(found, "efficient", "wall time")
    assert told.basis == "absolute times" and told.gate == EXCEEDED and "original has other built facts in NEW" in found.notes[0]


def test_few_or_noisy_processes_leave_it_undecided():
    assert compare_runs(speeds(1, processes=1), speeds(2, processes=1, efficient=2.0)).exit_code == 4
    assert compare_runs(speeds(1, processes=3, spread=0.1), speeds(2, processes=3, spread=0.1, efficient=1.1)).exit_code == 4
    assert "1 process says nothing about the next start" in str(compare_runs(speeds(1, processes=1), speeds(2, processes=1)).table.notes)


def test_a_resumed_run_is_compared_with_its_first_part_process_by_process():
    run = speeds(1, processes=6, spread=0.2)
    found = compare_runs(Run(run.records[:6]), run)
    assert found.exit_code == 0 and row(found, "original", "wall time").notes[0].startswith("3 processes are the same measurement")


def test_times_of_a_run_that_its_own_verdict_calls_invalid_are_invalid():
    def throttled(run):
        told = {"round_telemetry": [{"sm_clock_mhz": 1000, "throttled": True}] * 9}
        return Run(tuple(changed(each, **told) for each in run))

    assert compare_runs(speeds(1), throttled(speeds(2))).exit_code == 5
    alone = [Run(tuple(each for each in run if each.architecture == "efficient")) for run in (speeds(1), throttled(speeds(2)))]
    assert compare_runs(*alone).exit_code == 5
    zero = Run(tuple(changed(each, wall_s=[0.0] * 9) for each in speeds(2)))
    assert compare_runs(speeds(1), zero).exit_code == 5


def test_cuda_runs_are_judged_on_wall_and_device_time():
    environment = {**ENVIRONMENT, "device": "cuda:0"}
    runs = [
        Run(tuple(dataclasses.replace(changed(each, device_s=[one / 2 for one in each.measured["wall_s"]]), environment=environment, id="")
                  for each in run))
        for run in (speeds(1), speeds(2, efficient=1.1))
    ]
    found = compare_runs(*runs)
    assert {each.quantity for each in found.rows} == {"wall time", "device time"} and found.exit_code == 3


# The statistics


def test_welch_is_as_scipy_has_it():
    from scipy.stats import ttest_ind, ttest_rel

    chance = np.random.default_rng(3)
    old, new = chance.normal(0, 1, 7), chance.normal(0.5, 3, 5)
    shift, expected = unpaired(old, new), ttest_ind(new, old, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert shift.interval() == pytest.approx((interval.low, interval.high)) and shift.freedom == pytest.approx(expected.df)
    shift, expected = paired(new[:5] - old[:5]), ttest_rel(new[:5], old[:5])
    assert shift.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_no_spread_at_all_is_certain_and_one_process_says_nothing():
    assert unpaired([0.0, 0.0], [0.1, 0.1]).limit(0.02) == EXCEEDED and unpaired([0.0, 0.0], [0.0, 0.0]).limit(0.0) == KEPT
    assert unpaired([0.0], [1.0, 1.0]).limit(0.02) == UNDECIDED and unpaired([0.0], [1.0, 1.0]).verdict(0.02) == "undecided"
    assert paired([0.0]).verdict(0.02) == "same" and paired([math.log(1.1)] * 3).limit(0.02) == EXCEEDED
    assert [Shift(mean, 0.0, 3.0).verdict(0.02) for mean in (0.5, -0.5, 0.0)] == ["slower", "faster", "same"]


def test_a_limit_is_harder_to_exceed_the_more_are_judged_together():
    shift = Shift(0.05, 0.01, 8.0)
    assert [shift.limit(0.015, judged=judged) for judged in (1, 50)] == [EXCEEDED, UNDECIDED]
    found = (row(compare_runs(speeds(1), speeds(2, efficient=factor)), "efficient", "wall time") for factor in np.linspace(1.02, 1.04, 60))
    assert any(each.shift.limit(0.02) == EXCEEDED and each.gate == UNDECIDED for each in found)  # two clocks are judged


@pytest.mark.parametrize("noise", ["normal", "unequal", "heavy tail", "bimodal"])
def test_false_alarms_and_false_passes_are_as_rare_as_promised_and_true_regressions_are_found(noise, say):
    """At a limit of 2 %: a run exactly at the limit is called exceeded in at most 1 % of 2,000 tries, one that is slower than it is passed
    in at most 5 %, and one of +10 % is found in 90 % with 10 processes that are 2 % apart."""
    chance, trials, processes, spread = np.random.default_rng(11), 2000, 10, 0.02

    def draw(wider: float) -> np.ndarray:
        shape = (trials, processes)
        kinds = {
            "normal": lambda: chance.normal(0, 1, shape), "unequal": lambda: chance.normal(0, wider, shape),
            "heavy tail": lambda: chance.standard_t(3, shape) / math.sqrt(3),
            "bimodal": lambda: chance.choice([-1, 1], shape) + chance.normal(0, 0.2, shape),
        }
        return spread * kinds[noise]()

    old, new = draw(1), draw(3)
    rates = {}
    for name, shift, wanted in (("false alarms", 0.02, EXCEEDED), ("false passes", 0.0201, KEPT), ("found", 0.10, EXCEEDED)):
        calls = [unpaired(one, other + math.log1p(shift)).limit(0.02) for one, other in zip(old, new, strict=True)]
        rates[name] = calls.count(wanted) / trials
    say(f"two runs, {noise}: " + ", ".join(f"{name} {100 * rate:.2f} %" for name, rate in rates.items()))
    assert rates["false alarms"] <= 0.01 and rates["false passes"] <= 0.05
    assert rates["found"] >= (0.9 if noise != "unequal" else 0.3)


@pytest.mark.parametrize("runs", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_no_op_changes_never_fail_and_those_of_five_percent_nearly_always_do(runs):
    made = [(speeds(2 * seed), speeds(2 * seed + 1), speeds(2 * seed + 1, efficient=1.05)) for seed in range(runs)]
    assert not any(compare_runs(old, new).exit_code == 3 for old, new, _ in made)
    assert sum(compare_runs(old, slower).exit_code == 3 for old, _, slower in made) >= 0.99 * runs


# The command line


@pytest.fixture
def saved(tmp_path):
    def write(name: str, run: Run) -> str:
        with RecordWriter(tmp_path / name / "records.jsonl") as writer:
            for each in run:
                writer.write(each)
        return str(tmp_path / name)

    return write


def test_the_command_ends_with_0_3_4_5_or_2_and_prints_the_table(saved, capsys):
    run = whole()
    old = saved("old", run)
    broken = Run((failed("params", "original"), *run.records[1:]))
    noisy = whole(2, processes=3, spread=0.2)
    for name, new, code, said in (
        ("same", run, 0, "no regression: every limit is kept."), ("slow", planted(run, 1.1), 3, "regression: a limit is exceeded ("),
        ("noisy", noisy, 4, "undecided: nothing is shown to exceed its limit"), ("broken", broken, 5, "invalid: a measurement failed"),
    ):
        assert cli.main(["compare", old, saved(name, new)]) == code, name
        printed = capsys.readouterr()
        assert printed.err == "" and printed.out.splitlines()[-1].startswith(said) and "New against old" in printed.out
    assert cli.main(["compare", old, saved("again", planted(run, 1.1)) + "/records.jsonl", "--fail-on", "slower:15%"]) == 5
    printed = capsys.readouterr()  # within its limit, and not what was measured
    assert "invalid: not what was measured, humar-bench verify names all of it." in printed.out
    assert "NEW: records.jsonl, line 7 (fps of original, process 0), column id: the record was changed" in " ".join(printed.out.split())
    assert cli.main(["compare", old, saved("sound", run), "--fail-on", "slower:15%"]) == 0
    capsys.readouterr()
    for argv in (["--fail-on", "speed:1%"], ["--reference", "mine"]):
        assert cli.main(["compare", old, old, *argv]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1
    assert cli.main(["compare", old, "missing"]) == 2 and cli.main(["compare", old]) == 2


def test_other_work_is_refused_on_the_command_line_unless_asked_for(saved, capsys):
    run = whole()
    work = dataclasses.asdict(dataclasses.replace(WORKLOAD, padded=True))
    other = saved("other", Run(tuple(dataclasses.replace(each, workload=work, id="") for each in run)))
    old = saved("old", run)
    assert cli.main(["compare", old, other]) == 2
    assert "padded False and NEW with True" in capsys.readouterr().err
    assert cli.main(["compare", old, other, "--across-machines"]) == 0
    assert "[across padded]" in capsys.readouterr().out.replace("\n", " ")


def test_a_planted_copy_made_by_any_json_tool_is_a_regression(saved, tmp_path):
    old = saved("old", whole())
    lines = [json.loads(line) for line in (tmp_path / "old" / "records.jsonl").read_text().splitlines()]
    for each in lines:
        if each["measure"] == "fps":
            each["measured"]["wall_s"] = [1.1 * one for one in each["measured"]["wall_s"]]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert cli.main(["compare", old, str(tmp_path / "new.jsonl")]) == 3


def test_the_defaults_in_the_help_are_the_defaults():
    assert DEFAULT_LIMITS == {"slower": 0.02, "memory": 0.01, "params": 0.0, "flops": 0.0}


def test_comparing_saved_runs_does_not_import_torch():
    code = "import sys, humar_bench.saved.regression; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
