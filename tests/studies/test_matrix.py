"""The matrix of backends and number types: which cells run in which order and for how long, and what a cell's row says."""

from __future__ import annotations

import dataclasses

import pytest

from humar_bench import backends
from humar_bench.args import BACKENDS, DTYPES, ModelArgs, RunArgs, Workload
from humar_bench.errors import UsageError
from humar_bench.records.record import RECORDS_NAME, Run, load
from humar_bench.records.writer import RecordWriter
from humar_bench.report.study import study_csv, study_json, study_markdown, write_study
from humar_bench.running.costs import Point
from humar_bench.running.plan import Plan
from humar_bench.saved.verify import verify
from humar_bench.studies.backends import matrix
from humar_bench.studies.backends.matrix import Cell, cell_run, cells_of, measure_matrix
from humar_bench.studies.backends.tables import NOT_REACHED, missing_table, restore
from humar_bench.subjects.registry import Architecture
from tests.golden.records import ENVIRONMENT, TIME

ORIGINAL, EFFICIENT = (Architecture(name, name, False) for name in ("original", "efficient"))
SECONDS = {"eager": 0.100, "compile": 0.080, "onnxruntime": 0.050, "openvino": 0.040}


def plan_of(**run) -> Plan:
    return Plan((ORIGINAL, EFFICIENT), "original", ModelArgs(), Workload.uniphd(1), RunArgs(device="cpu", **run))


class FakeBench:
    """Every process takes 30 s of a clock of its own, twice as long the original's forwards; `fails` says which cells fail and how."""

    def __init__(self, fails=()):
        self.clock_s, self.ran, self.fails = 0.0, [], dict(fails)

    def now(self) -> float:
        return self.clock_s

    def __call__(self, architecture, args, workload, run, process, *, sink, progress, done, command):
        self.ran.append((architecture.name, run.backend, run.dtype, process))
        progress({"stage": "timing"})
        self.clock_s += 30
        result = {"status": "ok", "kind": "", "reason": "", "built": {}, "measured": self.measured(architecture.name, run, process)}
        if kind := self.fails.get((architecture.name, run.backend, run.dtype)):
            result = {"status": "failed", "kind": kind, "reason": "it went wrong.", "built": {}, "measured": None}
        record = Point(architecture, args, workload).record("fps", run, result, ENVIRONMENT, command)
        record = dataclasses.replace(record, process=process, time=TIME, id="")
        if sink is not None:
            sink.write(record)
        return record

    def measured(self, name, run, process):
        took_s = SECONDS[run.backend] * (2 if name == "original" else 1) * (1 + 0.01 * process)
        did = {"name": run.backend, "prepare_s": 0.001 if run.backend == "eager" else 20.0 - 5 * process, "file_bytes": 2**20}
        return {
            "process": process, "wall_s": [took_s] * 5, "cpu_s": [2 * took_s] * 5, "device_s": None, "first_call_s": 2 * took_s, "batch": 1,
            "preempted": [False] * 5, "spent_s": 5.1 * took_s, "warmup_runs": 2, "steady": True, "backend": did,
            "emulated": "this CPU has none" if run.dtype == "bfloat16" else "",
            "footprint": {"of": "resident set of the process", "start_bytes": 0, "prepared_bytes": 1, "peak_bytes": (3 + process) * 2**20},
            "agreement": {"checked": "before", "skipped": "", "max_error": 1e-5, "worst": "hs_pose[0]", "tolerance": 1e-3,
                          "same_selection": run.dtype != "int8", "common_share": 0.9 if run.dtype == "int8" else 1.0},
        }


def measured(bench, *, kind="cpu", run=None, **more):
    plan = dataclasses.replace(plan_of(), run=run or RunArgs(device="cpu"))
    return measure_matrix(plan, kind=kind, bench=bench, now=bench.now, command="humar-bench backends", **more)


def rows_of(study) -> dict:
    return {(row["architecture"], row["backend"], row["dtype"]): row for row in study.rows}


# The plan -------------------------------------------------------------------------------------------------------------------------


def test_every_cell_is_there_once_and_eager_float32_comes_first():
    cells = cells_of([ORIGINAL, EFFICIENT], BACKENDS, DTYPES)
    assert len(set(cells)) == len(cells) == 2 * len(BACKENDS) * len(DTYPES)
    assert cells[:2] == [Cell(ORIGINAL, "eager", "float32"), Cell(EFFICIENT, "eager", "float32")]
    with pytest.raises(UsageError, match="backend is 'tensorrt'"):
        cells_of([ORIGINAL], ["tensorrt"], DTYPES)
    with pytest.raises(UsageError, match="dtype is 'int4'"):
        cells_of([ORIGINAL], ["eager"], ["int4"])


def test_a_cell_is_timed_for_its_share_and_its_record_says_what_ran_it():
    run = cell_run(RunArgs(device="cpu", seed=3), Cell(ORIGINAL, "openvino", "float16"), 600.0, 10)
    assert (run.backend, run.dtype, run.processes, run.control, run.seed) == ("openvino", "float16", 3, False, 3)
    assert run.budget == 3 * 3.0  # 60 s a cell, 20 s a process, 10 s of it before it times, 0.3 of the rest
    assert cell_run(RunArgs(processes=2), Cell(ORIGINAL, "eager", "int8"), 1.0, 10).budget == 2 * 0.5


def test_cells_that_cannot_work_are_not_run_and_a_missing_package_is_a_reason(monkeypatch):
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None if name == "openvino" else object())
    bench = FakeBench()
    rows = rows_of(measured(bench, budget_s=1e4))
    ran = {cell[1:3] for cell in bench.ran}
    assert ran == {(name, dtype) for name in BACKENDS for dtype in DTYPES if not backends.why_not(name, dtype, "cpu")} - {
        ("openvino", dtype) for dtype in DTYPES
    }
    assert "records a CUDA graph" in rows["original", "cuda-graph", "float32"]["reason"]
    assert 'pip install "humar-bench[openvino]"' in rows["efficient", "openvino", "float32"]["reason"]
    assert all(row.get("fps") or row["reason"] for row in rows.values()) and len(rows) == 2 * len(BACKENDS) * len(DTYPES)


# The order and the budget ---------------------------------------------------------------------------------------------------------


def test_all_cells_run_once_before_any_a_second_time_and_none_begins_that_would_end_late():
    bench = FakeBench()
    rows = rows_of(measured(bench, backends=["eager", "openvino"], dtypes=["float32"], budget_s=30 * 6 + 1))
    assert [cell[3] for cell in bench.ran] == [0, 0, 0, 0, 1, 1] and bench.clock_s == 180
    assert rows["original", "eager", "float32"]["processes"] == 2 and rows["original", "openvino", "float32"]["processes"] == 1
    short = FakeBench()
    rows = rows_of(measured(short, backends=["eager", "openvino"], dtypes=["float32"], budget_s=1.0))
    assert short.ran == [("original", "eager", "float32", 0)]
    assert rows["efficient", "openvino", "float32"]["reason"] == NOT_REACHED


@pytest.mark.parametrize("kind", ["crash", "timeout", "error"])
def test_a_cell_that_fails_is_a_row_is_not_tried_again_and_takes_nobody_down(kind):
    bench = FakeBench({("original", "openvino", "float32"): kind})
    study = measured(bench, backends=["eager", "openvino"], dtypes=["float32"], budget_s=1e4)
    rows = rows_of(study)
    assert bench.ran.count(("original", "openvino", "float32", 0)) == 1 and ("original", "openvino", "float32", 1) not in bench.ran
    failed = rows["original", "openvino", "float32"]
    assert failed["status"] == "failed" and "it went wrong" in failed["reason"] and failed.get("fps") is None
    assert rows["efficient", "openvino", "float32"]["processes"] == 3 and len(study.failures) == 1


def test_what_an_earlier_run_holds_is_not_timed_again(tmp_path):
    with RecordWriter(tmp_path) as sink:
        first = FakeBench()
        measured(first, backends=["eager", "compile"], dtypes=["float32"], budget_s=100.0, sink=sink)
    with RecordWriter(tmp_path) as sink:
        second = FakeBench()
        study = measured(second, backends=["eager", "compile"], dtypes=["float32"], budget_s=100.0, sink=sink, done=load(tmp_path))
    assert len(first.ran) == 3 and not set(first.ran) & set(second.ran)
    assert len(study.run) == len(first.ran) + len(second.ran) == len(load(tmp_path))


# Rows -----------------------------------------------------------------------------------------------------------------------------


def test_a_row_holds_speed_with_interval_speed_up_memory_preparation_first_call_size_and_error():
    row = rows_of(measured(FakeBench(), backends=["eager", "openvino"], dtypes=["float32", "int8"], budget_s=1e4))[
        "efficient", "openvino", "float32"]
    middle_s = 0.040 * (1.01 * 1.02) ** (1 / 3)
    assert row["median_s"] == pytest.approx(middle_s) and row["fps"] == pytest.approx(1 / middle_s)
    # Student's t with 2 degrees of freedom: 4.303 standard errors; the logarithms of 1, 1.01 and 1.02 have a deviation of 0.0099
    assert row["fps_high"] / row["fps"] == pytest.approx(1 + 4.303 * 0.0099 / 3**0.5, rel=1e-3)
    assert row["speed_up"] == pytest.approx(2.5) and row["speed_up_low"] < 2.5 < row["speed_up_high"]
    assert (row["peak_bytes"], row["prepare_s"], row["file_bytes"], row["max_error"]) == (5 * 2**20, 20.0, 2**20, 1e-5)
    assert row["first_call_s"] == pytest.approx(2 * middle_s) and row["processes"] == 3 and row["notes"] == []


def test_notes_say_what_the_figures_do_not():
    rows = rows_of(measured(FakeBench(), backends=["eager"], dtypes=["float32", "bfloat16", "int8"], budget_s=1e4))
    assert rows["efficient", "eager", "bfloat16"]["notes"] == ["Emulated: this CPU has none."]
    assert rows["efficient", "eager", "int8"]["notes"] == ["90 % of the proposals in common with float32."]
    assert rows["efficient", "eager", "float32"]["speed_up"] is None
    one = rows_of(measured(FakeBench(), run=RunArgs(device="cpu", processes=1), backends=["eager"], dtypes=["float32"]))
    assert one["original", "eager", "float32"]["notes"] == ["One process: no interval."]
    assert one["original", "eager", "float32"]["fps_low"] is None


def test_the_tables_are_made_again_from_the_folder(tmp_path):
    with RecordWriter(tmp_path) as sink:
        study = measured(FakeBench({("original", "openvino", "float32"): "crash"}), backends=["eager", "openvino", "cuda-graph"],
                         dtypes=["float32", "int8"], budget_s=1e4, sink=sink)
    names = {path.name for path in write_study(study, tmp_path)}
    assert names == {"backends.md", "backends.csv", "study.json"} and (tmp_path / RECORDS_NAME).exists()
    again = restore(load(tmp_path), study.settings)
    assert study_markdown(again) == study_markdown(study) and study_csv(again) == study_csv(study)
    assert "## Cells without a figure" in study_markdown(study) and study_json(study)
    assert verify(tmp_path).proved
    (tmp_path / "backends.csv").write_text((tmp_path / "backends.csv").read_text().replace("ok", "OK", 1))
    assert not verify(tmp_path).proved


def test_a_reason_stands_only_beside_cells_that_have_no_figure():
    cells = [("original", "float32"), ("original", "int8"), ("efficient", "int8")]
    crashes = {(name, "onnxruntime", dtype): "crash" for name, dtype in cells}
    table = missing_table(measured(FakeBench(crashes), backends=["eager", "onnxruntime"], dtypes=["float32", "int8"], budget_s=1e4))
    assert {(row["dtype"], row["architecture"]) for row in table.rows} == {("float32", "original"), ("int8", "original, efficient")}


def test_a_matrix_in_which_nothing_can_run_is_all_reasons():
    bench = FakeBench()
    study = measured(bench, backends=["cuda-graph"], dtypes=["float32"])
    assert not bench.ran and study.conditions == ("Nothing was measured.",) and study_markdown(study) and len(study.run) == len(Run())
    assert matrix.reasons_against(["cuda-graph"], ["float32"], "cuda") == {}
