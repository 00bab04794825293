"""Two saved runs of which somebody wrote or changed records by hand: what verify refuses, compare does not call all right."""

from __future__ import annotations

import dataclasses
import json

import pytest

from humar_bench import cli
from humar_bench.records.record import Run
from humar_bench.records.writer import RecordWriter
from humar_bench.report import write_report
from humar_bench.saved.regression import compare_runs
from tests.golden.records import ENVIRONMENT
from tests.saved.made_up_runs import changed, planted, speeds, whole


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
