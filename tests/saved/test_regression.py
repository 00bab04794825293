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
from humar_bench.report import write_report
from humar_bench.saved.limits import DEFAULT_LIMITS, parse_limits
from humar_bench.saved.regression import compare_runs
from tests.golden.records import BUILT, ENVIRONMENT, SECONDS, WORKLOAD, failed, flops, fps, memory, params

NAMES = ("original", "efficient")


def timed(architecture: str, process: int, median_s: float, child: str, **changes):
    """A speed record whose median is exactly `median_s`."""
    record = fps(architecture, process)
    wall = [median_s * (1 + 0.01 * (index % 3 - 1)) for index in range(9)]
    told = {"wall_s": wall, "cpu_s": [2 * each for each in wall], "child": child, "preempted": [False] * 9}
    return dataclasses.replace(record, measured={**record.measured, **told}, id="", **changes)


def speeds(seed: int, processes: int = 8, spread: float = 0.002, names=NAMES, **factors: float) -> Run:
    """A run's speed records: log-normal process effects shared by the architectures and, smaller, of their own."""
    chance = np.random.default_rng(seed)
    records = []
    for process in range(processes):
        shared = chance.normal(0, 10 * spread)
        for name in names:
            median_s = SECONDS[name] * factors.get(name, 1.0) * math.exp(shared + chance.normal(0, spread))
            records.append(timed(name, process, median_s, f"{seed}-{process}"))
    return Run(tuple(records))


def changed(record, **measured):
    return dataclasses.replace(record, measured={**record.measured, **measured}, id="")


def planted(run: Run, factor: float, *names: str) -> Run:
    """A copy whose times of the named architectures are multiplied; nothing else, not even the id, is made anew."""
    def slower(record):
        if record.measure != "fps" or record.architecture not in (names or NAMES):
            return record
        times = {key: [factor * each for each in record.measured[key]] for key in ("wall_s", "cpu_s")}
        return dataclasses.replace(record, measured={**record.measured, **times})
    return Run(tuple(slower(each) for each in run))


def whole(seed: int = 1, **more) -> Run:
    exact = [make(name) for make in (params, flops, memory) for name in NAMES]
    return Run((*exact, *speeds(seed, **more)))


def row(found, architecture: str, quantity: str):
    return next(each for each in found.rows if (each.architecture, each.quantity) == (architecture, quantity))


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


# Records that somebody wrote or changed by hand ------------------------------------------------------------------------------------


def spoiled(run: Run, sealed: bool, **measured) -> Run:
    """The same run with other values in its last speed record; `sealed`: with an id made anew, as a foreign program would."""
    last = max(at for at, record in enumerate(run) if record.measure == "fps")
    told = {"measured": {**run[last].measured, **measured}, **({"id": ""} if sealed else {})}
    return Run([dataclasses.replace(each, **told) if at == last else each for at, each in enumerate(run)])


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(("clock", "value", "said"), [
    ("wall_s", None, "wall_s holds 1 of 9 times that are no positive number"),
    ("cpu_s", None, "cpu_s holds 1 of 9 times that are no finite number"),
    ("cpu_s", "0.3", "cpu_s holds 1 of 9 times that are no finite number"),
    ("device_s", None, "device_s holds 1 of 9 times that are no finite number"),
])
def test_a_time_that_is_no_number_fails_its_row_and_names_the_record(tmp_path, capsys, clock, value, said, sealed):
    bad = spoiled(whole(), sealed, **{clock: [value] + [0.3] * 8})
    for name, run in (("old", whole()), ("new", bad)):
        with RecordWriter(tmp_path / name) as writer:
            writer.write(*run)
    assert cli.main(["compare", str(tmp_path / "old"), str(tmp_path / "new")]) == 5
    printed = capsys.readouterr()
    told = " ".join(printed.out.split())
    assert f"speed of efficient: failed in NEW: not finite: the record of process 7 cannot be used: {said}." in told
    assert cli.main(["compare", str(tmp_path / "new"), str(tmp_path / "old")]) == 5


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("measured", [{"changed": "x"}, {"wall_s": 3}, {"child": []}, {"agreement": []}, {"conditions": ["x"]}])
def test_a_value_of_another_kind_fails_its_row_and_names_the_record(tmp_path, capsys, measured, sealed):
    for name, run in (("old", whole()), ("new", spoiled(whole(), sealed, **measured))):
        with RecordWriter(tmp_path / name) as writer:
            writer.write(*run)
    assert cli.main(["compare", str(tmp_path / "old"), str(tmp_path / "new")]) == 5
    told = " ".join(capsys.readouterr().out.split())
    assert f"failed in NEW: not finite: the record of process 7 cannot be used: its {next(iter(measured))}" in told


@pytest.mark.parametrize(("name", "value", "said"), [
    ("process", None, "its process is not a whole number"), ("architecture", 3, "its architecture is not text"),
    ("foreign", "no", "its foreign is not true or false"), ("measured", [], "its measured is neither"),
])
def test_a_field_of_another_kind_is_no_record(tmp_path, capsys, name, value, said):
    line = json.dumps({**json.loads(whole()[0].to_json()), name: value})
    (tmp_path / "run").write_text(line + "\n")
    assert cli.main(["compare", str(tmp_path / "run"), str(tmp_path / "run")]) == 2
    assert f"run line 1 is not a record: {said}" in capsys.readouterr().err


def test_a_run_whose_processes_are_of_two_versions_is_no_basis():
    other = {**ENVIRONMENT, "torch": "2.14.0"}
    old = Run([dataclasses.replace(each, environment=other, id="") if each.process > 3 else each for each in speeds(1)])
    for one, two in ((old, speeds(2)), (speeds(2), old)):
        found = compare_runs(one, two, across_machines=True)
        assert found.exit_code == 5 and "its processes were measured with torch 2.13.0 and 2.14.0" in str(found.rows)
    alone = [Run([each for each in run if each.architecture == "original"]) for run in (old, speeds(2))]
    assert compare_runs(*alone, across_machines=True).exit_code == 5


# What verify refuses, compare does not call all right -------------------------------------------------------------------------------


def lines_of(run: Run) -> list[str]:
    return [each.to_json() + "\n" for each in run]


def anew(record, **changes):
    """The record with other values and an id made anew, as a foreign program would write it."""
    return dataclasses.replace(record, **changes, id="")


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda run: [*lines_of(run)[:-1], lines_of(run)[-1][:200]], "it was cut short, that measurement has to be made again"),
    (lambda run: [*lines_of(run), lines_of(run)[3]], "it is the record of line 4 a second time"),
    (lambda run: [lines_of(run)[0].replace('", "', '","', 1), *lines_of(run)[1:]], "the line was written anew by something else"),
    (lambda run: lines_of([changed(run[0], total=-5), *run.records[1:]]), "total is -5; it must be a whole number of at least 0"),
    (lambda run: lines_of([changed(run[0], total=0.5), *run.records[1:]]), "total is 0.5; it must be a whole number"),
    (lambda run: lines_of([changed(run[0], buffers=-5), *run.records[1:]]), "buffers is -5"),
    (lambda run: lines_of([changed(run[2], macs=1), *run.records[:2], *run.records[3:]]), "it contradicts itself: 1 multiply-adds"),
    (lambda run: lines_of([*run.records[:-1], changed(run[-1], wall_s=[], cpu_s=[], preempted=[])]), "it holds no time"),
    (lambda run: lines_of([*run.records[:-1], changed(run[-1], batch=0)]), "batch is 0; it must be a whole number of at least 1"),
    (lambda run: lines_of([*run.records[:-1], changed(run[-1], first_call_s=-1.0)]), "first_call_s is -1.0"),
    (lambda run: lines_of([anew(each, workload={**each.workload, "batch": 0}) for each in run]), "workload: batch is 0"),
    (lambda run: lines_of([anew(each, environment={**each.environment, "cores": -2}) for each in run]), "environment: cores is -2"),
    (lambda run: lines_of([anew(each, asked={**each.asked, "nheads": 3}) for each in run]), "asked: nheads 3 does not divide"),
    (lambda run: lines_of([anew(each, run={**each.run, "budget": -1.0}) for each in run]), "run: budget is -1.0"),
    (lambda run: lines_of([anew(run[0], process=-1), *run.records[1:]]), "process is -1"),
    (lambda run: lines_of([anew(run[0], time="soon"), *run.records[1:]]), "time is 'soon'"),
])
@pytest.mark.parametrize("side", ["old", "new"])
def test_whatever_verify_finds_wrong_with_records_ends_with_5_and_is_said(tmp_path, capsys, spoil, said, side):
    run = whole(processes=2)
    for name in ("old", "new"):
        (tmp_path / name).write_text("".join(spoil(run) if name == side else lines_of(run)))
    assert cli.main(["compare", str(tmp_path / "old"), str(tmp_path / "new"), "--across-machines", "--fail-on", "flops:50%"]) == 5
    told = " ".join(capsys.readouterr().out.split())
    assert said in told and f"{side.upper()}: {side}, line " in told


def test_another_format_is_refused(tmp_path, capsys):
    run = whole(processes=2)
    (tmp_path / "new").write_text("".join(lines_of(run)).replace('"format": 1', '"format": 2', 1))
    (tmp_path / "old").write_text("".join(lines_of(run)))
    assert cli.main(["compare", str(tmp_path / "old"), str(tmp_path / "new")]) == 2
    assert "new line 1 is not a record: its format is 2; this version reads format 1." in capsys.readouterr().err


def test_a_folder_whose_tables_are_not_its_records_is_not_called_all_right(tmp_path, capsys):
    run = whole(processes=2)
    for name in ("old", "new"):
        with RecordWriter(tmp_path / name / "records.jsonl") as writer:
            writer.write(*run)
        write_report(run, tmp_path / name)
    argv = ["compare", str(tmp_path / "old"), str(tmp_path / "new"), "--fail-on", "params:0"]
    assert cli.main(argv) == 0
    table = tmp_path / "new" / "params.csv"
    table.write_text(table.read_text().replace("27343636", "27343637"))
    assert cli.main(argv) == 5 and "NEW: params.csv, row " in " ".join(capsys.readouterr().out.split())
    assert cli.main([*argv[:2], str(tmp_path / "new" / "records.jsonl"), *argv[3:]]) == 0  # its records alone are as they were measured
    other = [anew(each, environment={**each.environment, "packages": {"humar-bench": "0.0.9"}}) for each in run]
    (tmp_path / "new" / "records.jsonl").write_text("".join(lines_of(other)))
    assert cli.main(argv) == 0  # another version's tables may look different


def test_a_regression_of_records_that_were_changed_is_still_one(tmp_path, capsys):
    run = whole(processes=5)
    (tmp_path / "old").write_text("".join(lines_of(run)))
    (tmp_path / "new").write_text("".join(lines_of(planted(run, 1.1))))
    assert cli.main(["compare", str(tmp_path / "old"), str(tmp_path / "new")]) == 3
    assert "the record was changed after it was measured" in " ".join(capsys.readouterr().out.split())
