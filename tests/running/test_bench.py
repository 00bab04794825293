"""Plans become records: what fails is a row, what is done is not done again, and nothing measured is lost."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import humar_bench.running.bench as module
from humar_bench.args import ModelArgs, RunArgs, Workload
from humar_bench.errors import MeasurementError, UsageError
from humar_bench.records.record import MEASURES, RECORDS_NAME, Record, Run, load
from humar_bench.records.writer import RecordWriter
from humar_bench.report.comparison import compare
from humar_bench.running import costs
from humar_bench.running.bench import benchmark, timing_plan
from humar_bench.running.children import Child, Outcome

DATA = Path(__file__).parents[1] / "data"
FAKE = (sys.executable, str(DATA / "fake_worker.py"))


def foreign(*builders: str) -> list[str]:
    return [f"{each}={DATA}/foreign_models.py:{each}" for each in builders]


@pytest.fixture
def children(monkeypatch) -> list[dict]:
    """Children without torch; the requests they were given."""
    requests = []

    def fake(request, **more):
        requests.append(request)
        return Child(request, **more, command=FAKE)

    for each in (module, costs):
        monkeypatch.setattr(each, "Child", fake)
    return requests


def bench(builders, measures=MEASURES, **more) -> Run:
    run = more.pop("run", RunArgs(device="cpu", processes=2, control=False))
    return benchmark(foreign(*builders), ModelArgs(), Workload.tiny(), measures, run, **more)


def rows(run: Run) -> list[tuple]:
    return [(each.measure, each.architecture, each.process, each.status) for each in run]


def ran(requests) -> list[tuple]:
    """What each child was asked: a measure, a process and its architectures; of one that counts, its items."""
    return [
        ("count", *((item["measure"], item["architecture"]["name"]) for item in each["items"])) if each["measure"] == "count"
        else (each["measure"], each["process"], *(one["name"] for one in each["architectures"]))
        for each in requests
    ]


def test_counts_share_a_child_and_every_other_measurement_has_its_own_and_each_is_a_record(children):
    run = bench(["build", "wider"], command="humar-bench report")
    assert sorted(rows(run)) == sorted(
        [(measure, name, 0, "ok") for measure in ("params", "flops", "memory", "component_time") for name in ("build", "wider")]
        + [("fps", name, process, "ok") for name in ("build", "wider") for process in (0, 1)]
    )
    assert ran(children) == [
        ("count", ("params", "build"), ("flops", "build"), ("params", "wider"), ("flops", "wider"), ("peak", "build"), ("peak", "wider")),
        ("fps", 0, "build", "wider"), ("fps", 1, "build", "wider"), ("memory", 0, "build"), ("memory", 0, "wider"),
        ("component_time", 0, "build", "wider"),
    ]
    predicted = {each.architecture: each.measured["predicted"] for each in run.select(measure="memory")}
    assert predicted == {name: {"peak": None, "method": f"made up for {name}"} for name in ("build", "wider")}
    record = run[0]
    assert record.foreign and record.spec.endswith(f"foreign_models.py:{record.architecture}") and record.command == "humar-bench report"
    assert record.asked == dataclasses.asdict(ModelArgs()) and record.built == {"does": record.architecture}
    assert record.workload["feature_sizes"] == [[9, 7], [5, 4], [3, 2], [2, 1]] and record.environment == {"python": "3"}


def test_no_measurement_begins_before_the_one_before_it_is_on_disk(monkeypatch, tmp_path):
    """So a kill at any moment loses what one child was about at most."""
    path, kept = tmp_path / RECORDS_NAME, []

    class Watched(Child):
        def start(self):
            kept.append(len(load(path)))
            super().start()

    for each in (module, costs):
        monkeypatch.setattr(each, "Child", lambda request, **more: Watched(request, **more, command=FAKE))
    with RecordWriter(path) as sink:
        bench(["build", "wider"], sink=sink)
    # four counts in one child, two processes that time both, the memory of each, the components of both in one
    assert kept == [0, 4, 6, 8, 9, 10]


def test_speed_records_and_no_others_carry_the_certificate_they_were_measured_under(children):
    cited = {"cited": "1a2b3c4d5e6f", "threads": 1, "by": {}}
    told = {each.measure: each.environment for each in bench(["build"], certificate=cited)}
    assert told["fps"] == {"python": "3", "certificate": cited} and told["params"] == told["memory"] == {"python": "3"}
    assert "certificate" not in bench(["build"], ["fps"])[0].environment


def test_int8_layers_are_made_by_what_runs_a_forward_and_only_timed(children):
    with pytest.raises(UsageError, match="dtype is int8 and memory was asked for; "):
        bench(["build"], ["fps", "memory"], run=RunArgs(device="cpu", dtype="int8"))
    assert not children and {each.measure for each in bench(["build"], ["fps"], run=RunArgs(device="cpu", dtype="int8"))} == {"fps"}


def test_a_backend_whose_package_is_missing_is_refused_before_anything_starts(children, monkeypatch):
    from humar_bench import backends

    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "humar-bench\[openvino\]"'):
        bench(["build"], ["fps"], run=RunArgs(device="cpu", backend="openvino"))
    assert not children


def test_components_are_timed_in_one_process_and_one_that_takes_it_down_is_left_out(children):
    run = bench(["build", "crashes", "wider"], ["component_time"])
    assert rows(run) == [
        ("component_time", "crashes", 0, "failed"), ("component_time", "build", 0, "ok"), ("component_time", "wider", 0, "ok"),
    ]
    assert ran(children) == [
        ("component_time", 0, "build", "crashes", "wider"), ("component_time", 0, "crashes"), ("component_time", 0, "build", "wider"),
    ]
    children.clear()
    again = bench(["build", "crashes", "wider"], ["component_time"], done=run)
    assert ran(children) == [("component_time", 0, "crashes")] and len(again) == 3


def test_only_eager_times_components_and_without_it_everything_else_is_measured(children, monkeypatch):
    monkeypatch.setattr(module, "check_installed", lambda backend: None)
    run = RunArgs(device="cpu", processes=1, control=False, backend="openvino")
    with pytest.raises(UsageError, match="backend is openvino and time by component was asked for; only eager calls"):
        bench(["build"], ["component_time"], run=run)
    assert not children and {each.measure for each in bench(["build"], None, run=run)} == {"params", "flops", "fps", "memory"}


def test_only_the_asked_measures_are_made(children):
    assert {each.measure for each in bench(["build"], ["params", "memory"])} == {"params", "memory"}
    assert {each.measure for each in bench(["build"], "flops")} == {"flops"}


def test_what_fails_is_a_row_and_the_others_are_kept(children):
    run = bench(["build", "raises", "crashes", "hungry", "leaves"], ["params"])
    kinds = {each.architecture: (each.status, each.kind) for each in run}
    assert kinds == {
        "build": ("ok", ""), "raises": ("failed", "error"), "crashes": ("failed", "crash"), "hungry": ("failed", "out of memory"),
        "leaves": ("failed", "crash"),
    }
    assert all(each.reason.endswith(".") and each.measured is None for each in run.failed)
    assert "SIGSEGV" in run.select(architecture="crashes")[0].reason


def test_a_count_that_takes_its_child_down_fails_alone_and_another_child_goes_on_with_those_that_are_left(children):
    run = bench(["build", "crashes", "wider", "leaves"], ["params", "flops"])
    assert rows(run) == [
        (measure, name, 0, "ok" if name in ("build", "wider") else "failed")
        for name in ("build", "crashes", "wider", "leaves") for measure in ("params", "flops")
    ]
    counts = [(measure, name) for name in ("build", "crashes", "wider", "leaves") for measure in ("params", "flops")]
    pieces = (counts, counts[2:3], counts[3:], counts[3:4], counts[4:], counts[6:7], counts[7:])  # who was blamed is counted alone
    assert ran(children) == [("count", *each) for each in pieces]


def test_a_count_that_hangs_is_stopped_and_does_not_use_up_the_time_of_the_others(children):
    run = bench(["build", "hangs", "wider"], ["params"], run=RunArgs(device="cpu", timeout=2.0))
    assert rows(run) == [("params", "build", 0, "ok"), ("params", "hangs", 0, "failed"), ("params", "wider", 0, "ok")]
    assert run[1].kind == "timeout" and run[1].reason == "hangs took longer than 2 s and was stopped." and len(children) == 3


def test_a_model_whose_prediction_fails_is_a_failed_memory_record_and_is_not_run(children):
    run = bench(["leaves", "build"], ["memory"])
    assert rows(run) == [("memory", "leaves", 0, "failed"), ("memory", "build", 0, "ok")] and "exit code 1" in run[0].reason
    assert ran(children) == [
        ("count", ("peak", "leaves"), ("peak", "build")), ("count", ("peak", "leaves")), ("count", ("peak", "build")),
        ("memory", 0, "build"),
    ]


def test_what_is_part_of_the_bench_is_counted_before_somebody_elses_code_is_loaded(children):
    benchmark([*foreign("build"), "original"], ModelArgs(), Workload.tiny(), ["params"], RunArgs(device="cpu"))
    assert ran(children) == [("count", ("params", "original"), ("params", "build"))]


@pytest.mark.parametrize("reply", [None, {"environment": {}}])
def test_a_counting_child_that_says_nothing_at_all_fails_for_all_and_is_not_tried_for_each(monkeypatch, reply):
    """It died before the first count, or ended well without one."""
    outcome, started = Outcome(reply, "crash" if reply is None else "", "it crashed." if reply is None else ""), []
    monkeypatch.setattr(costs, "run_children", lambda children, at_once: started.append(children) or [(None, outcome)])
    run = bench(["build", "wider"], ["params"])
    assert [each.reason for each in run] == ["it crashed." if reply is None else costs.NOTHING] * 2
    assert len(started) == (2 if reply is None else 1)


def test_in_a_speed_process_the_one_that_takes_it_down_is_left_out_and_the_others_run_again(children):
    run = bench(["build", "crashes", "raises", "wider"], ["fps"])
    assert rows(run) == [
        ("fps", "crashes", 0, "failed"), ("fps", "build", 0, "ok"), ("fps", "raises", 0, "failed"), ("fps", "wider", 0, "ok"),
        ("fps", "build", 1, "ok"), ("fps", "wider", 1, "ok"),
    ]
    assert ran(children) == [
        ("fps", 0, "build", "crashes", "raises", "wider"), ("fps", 0, "crashes"), ("fps", 0, "build", "raises", "wider"),
        ("fps", 1, "build", "wider"),
    ]


@pytest.mark.parametrize("guilty", ["four_outputs", "forges"])
def test_a_speed_process_that_dies_with_nobody_to_blame_is_run_again_one_at_a_time(children, guilty):
    """Whoever takes it down says nothing, or that another one was running."""
    run = bench(["build", guilty], ["fps"])
    assert rows(run) == [("fps", guilty, 0, "failed"), ("fps", "build", 0, "ok"), ("fps", "build", 1, "ok")]
    assert run[0].reason == f"{guilty} crashed its process with SIGKILL, as a system does that is out of memory."


def test_a_child_that_is_killed_once_costs_one_process_and_resuming_doubles_nothing(children, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_KILLED", str(tmp_path / "killed"))
    run = bench(["build", "killed_once"], ["fps"])
    both = [("fps", name, process, "ok") for process in (0, 1) for name in ("build", "killed_once")]
    assert rows(run) == both and ran(children)[-1] == ("fps", 1, "build", "killed_once")
    (tmp_path / "killed").unlink()
    alone = bench(["killed_once"], ["fps"])
    assert rows(alone) == [("fps", "killed_once", 0, "failed"), ("fps", "killed_once", 1, "ok")]
    children.clear()
    assert rows(bench(["build", "killed_once"], ["fps"], done=run)) == both and not children


def test_what_dies_alone_twice_is_left_out_of_the_processes_to_come(children):
    run = bench(["crashes"], ["fps"], run=RunArgs(device="cpu", processes=4, control=False))
    assert rows(run) == [("fps", "crashes", 0, "failed"), ("fps", "crashes", 1, "failed")] and len(children) == 2


def test_those_that_die_together_and_live_alone_are_run_alone_from_then_on(children, monkeypatch):
    class Crowded(Child):
        def start(self):
            if len(self.request["architectures"]) > 1:
                self.request["architectures"][0]["spec"] = "x:crashes"
            super().start()

    monkeypatch.setattr(module, "Child", lambda request, **more: Crowded(children.append(request) or request, **more, command=FAKE))
    run = bench(["build", "wider"], ["fps"])
    assert rows(run) == [("fps", name, process, "ok") for process in (0, 1) for name in ("build", "wider")]
    assert ran(children)[-2:] == [("fps", 1, "build"), ("fps", 1, "wider")]


def test_a_resumed_run_tries_what_failed_alone_and_measures_the_others_not_again(children, tmp_path):
    with RecordWriter(tmp_path / RECORDS_NAME) as sink:
        whole = bench(["build", "crashes"], ["fps"], sink=sink)
        children.clear()
        again = bench(["build", "crashes"], ["fps"], sink=sink, done=load(tmp_path))
    assert ran(children) == [("fps", 0, "crashes")]
    ok = [each for each in load(tmp_path) if each.ok]
    assert rows(Run(ok)) == [("fps", "build", 0, "ok"), ("fps", "build", 1, "ok")] == rows(again.select(status="ok"))
    assert len(whole) == 3


def test_a_child_that_lies_about_its_machine_fails_alone(children):
    run = bench(["build", "lies", "wider"], ["memory"])
    assert [each.status for each in run] == ["ok", "failed", "ok"]
    assert run[1].reason == "its process says it ran on another machine than the ones before it."


def test_an_error_of_usage_from_a_later_child_is_its_own_failure(children, monkeypatch):
    monkeypatch.setenv("FAKE_REPLIES", '{"wider": "{\\"usage_error\\": \\"no.\\"}"}')
    monkeypatch.setattr(module, "count_all", lambda counts, run, keep, **more: [
        keep(each, {"status": "ok", "measured": {}, "kind": "", "reason": "", "built": {}}, {}) for each in counts])
    run = bench(["build", "wider"], ["memory"])
    assert [each.status for each in run] == ["ok", "failed"] and run[1].reason == "its process would not start: no."
    with pytest.raises(UsageError, match="no."):
        bench(["wider", "build"], ["memory"])


EVENTS = {
    "garbage": "no JSON\n", "list": "[1]\n", "deep": "[" * 2000 + "\n", "number": '{"stage": ' + "9" * 400 + "}\n",
    "stranger": '{"stage": "build", "architecture": "somebody"}\n', "unstaged": '{"architecture": ""}\n',
    "share": '{"stage": "timing", "share": "all"}\n', "bytes": "\xff\xfe\n", "more": '{"stage": "a", "status": "done"}\n',
    "endless": "x" * 5000, "typed": '{"stage": "a", "architecture": ["b"]}\n',
}
REPLIES = {
    "cut": '{"environment": {}, "res', "empty": "", "array": "[]", "bare": "{}", "deepened": "[" * 100_000, "latin": "{\"\xff\": 1}",
    "resultless": '{"environment": {}, "results": []}', "packages": '{"environment": {"packages": []}, "results": {}}',
    "status": '{"environment": {}, "results": {"status": {"status": "fine", "kind": "", "reason": "", "built": {}, "measured": {}}}}',
    "measured": '{"environment": {}, "results": {"measured": {"status": "ok", "kind": "", "reason": "", "built": {}, "measured": 3}}}',
    "nan": '{"environment": {"a": NaN}, "results": {}}', "digits": '{"environment": {"a": ' + "9" * 400 + '}, "results": {}}',
    "pipe": "a pipe", "usage": '{"usage_error": 7}',
}


@pytest.mark.parametrize(("kind", "texts", "said"), [
    *((kind, "FAKE_EVENTS", "its events take more than" if kind == "endless" else "it sent what is no event") for kind in EVENTS),
    *((kind, "FAKE_REPLIES", "sent back what is no result") for kind in REPLIES),
])
def test_what_is_no_event_and_no_reply_is_that_childs_failure_alone(children, monkeypatch, kind, texts, said):
    monkeypatch.setenv(texts, json.dumps(EVENTS if texts == "FAKE_EVENTS" else REPLIES))
    run = bench(["build", kind], ["memory"])
    assert [each.status for each in run] == ["ok", "failed"]
    assert run[1].kind == "error" and said in run[1].reason and kind in run[1].reason and run[1].reason.isprintable()


FORGED = {"stage": "counted", "item": 0, "architecture": "build", "environment": {},
          "result": {"status": "failed", "kind": "error", "reason": "forged.", "built": {}, "measured": None}}


@pytest.mark.parametrize(("kind", "event"), [
    *((kind, EVENTS[kind]) for kind in ("garbage", "list", "deep", "stranger", "bytes")), ("number", json.dumps(FORGED) + "\n"),
    ("typed", json.dumps({**FORGED, "item": 1, "architecture": "typed", "result": 7}) + "\n"),
    ("more", json.dumps({"stage": "count", "item": 2, "architecture": "wider"}) + "\n"),
])
def test_in_a_child_that_counts_what_is_no_event_fails_its_own_row(children, monkeypatch, kind, event):
    monkeypatch.setenv("FAKE_EVENTS", json.dumps({kind: event}))
    run = bench(["build", kind, "wider"], ["params"])
    assert [(each.architecture, each.status) for each in run] == [("build", "ok"), (kind, "failed"), ("wider", "ok")]
    assert "it sent what is no event" in run[1].reason and ran(children)[-1] == ("count", ("params", "wider"))


def test_a_child_that_floods_its_pipe_is_stopped(children):
    run = bench(["build", "floods"], ["memory"])
    assert run[0].ok and run[1].reason == "floods was stopped: its events take more than 16,777,216 bytes."


def test_one_that_hangs_is_stopped_and_the_others_are_timed(children):
    run = bench(["hangs", "build"], ["fps"], run=RunArgs(device="cpu", processes=1, timeout=3.0, control=False))
    assert rows(run) == [("fps", "hangs", 0, "failed"), ("fps", "build", 0, "ok")]
    assert run[0].kind == "timeout" and run[0].reason == "hangs took longer than 3 s and was stopped."


def test_the_sink_gets_each_record_before_the_next_child_starts(children, tmp_path):
    seen = []

    def look(event):
        if event["status"] == "started" and event["measure"] == "memory":
            seen.append(len(load(tmp_path / RECORDS_NAME)))

    with RecordWriter(tmp_path / RECORDS_NAME) as sink:
        run = bench(["build", "crashes", "leaves", "wider"], ["memory"], sink=sink, progress=look)
    assert seen == [0, 1, 2, 3]
    assert load(tmp_path).records == run.records


def test_progress_says_what_starts_runs_ends_and_fails(children):
    events = []
    bench(["build", "crashes"], ["params", "fps"], progress=events.append)
    assert {each["status"] for each in events} == {"started", "running", "done", "failed"}
    assert all(each["measure"] in MEASURES and {"process", "of", "stage", "architecture"} <= each.keys() for each in events)
    assert {each["of"] for each in events if each["measure"] == "fps"} == {2}
    assert any("SIGSEGV" in each["reason"] for each in events if each["status"] == "failed")


def test_a_resumed_run_makes_only_what_is_missing(children):
    whole = bench(["build", "wider"])
    children.clear()
    assert bench(["build", "wider"], done=whole) == whole and not children
    part = Run([each for each in whole if each.measure != "memory" and (each.measure, each.process) != ("fps", 1)])
    again = bench(["build", "wider"], done=part)
    assert ran(children) == [
        ("count", ("peak", "build"), ("peak", "wider")), ("fps", 1, "build", "wider"), ("memory", 0, "build"), ("memory", 0, "wider"),
    ]
    assert sorted(rows(again)) == sorted(rows(whole))


def test_a_resumed_run_tries_what_failed_again_and_the_new_record_replaces_the_old(children):
    whole = bench(["build", "wider"], ["params"])
    failed = dataclasses.replace(whole[0], status="failed", kind="crash", reason="It crashed.", measured=None, id="")
    children.clear()
    again = bench(["build", "wider"], ["params"], done=Run([failed, whole[1]]))
    assert len(children) == 1 and rows(again) == [rows(Run([whole[1]]))[0], ("params", failed.architecture, 0, "ok")]


def test_a_speed_process_with_one_lost_record_is_measured_whole_and_nothing_is_doubled(children):
    whole = bench(["build", "wider"], ["fps"])
    children.clear()
    again = bench(["build", "wider"], ["fps"], done=Run(whole.records[:-1]))
    assert ran(children) == [("fps", 1, "build", "wider")] and sorted(rows(again)) == sorted(rows(whole))


@pytest.mark.parametrize(
    "other", [{"args": ModelArgs(enc_layers=2)}, {"workload": Workload.tiny(batch=1)}, {"run": RunArgs(device="cpu", dtype="bfloat16")}]
)
def test_a_record_of_other_args_work_or_number_type_is_not_taken_for_this_one(children, other):
    asked = {"args": ModelArgs(), "workload": Workload.tiny(), "run": RunArgs(device="cpu")}
    first = benchmark(foreign("build"), measures=["params"], **asked)
    children.clear()
    run = benchmark(foreign("build"), measures=["params"], **{**asked, **other}, done=first)
    assert len(children) == 1 and len(run) == 2
    benchmark(foreign("build"), measures=["params"], **{**asked, "run": RunArgs(device="cpu", budget=1.0, timeout=5.0)}, done=first)
    assert len(children) == 1  # parameters do not depend on how long speed is measured


def test_the_runs_and_the_budget_are_split_over_the_processes():
    run = RunArgs(processes=8, min_runs=12, max_runs=103, budget=20.0, seed=3)
    plans = [timing_plan(run, process) for process in range(8)]
    assert {each["min_runs"] for each in plans} == {4}  # 12 after the three processes of the first look
    assert [each["max_runs"] for each in plans] == [13] * 7 + [12]
    assert {each["budget_s"] for each in plans} == {2.5} and {each["warmup_max_s"] for each in plans} == {2.5}
    assert [each["first_round"] for each in plans] == [0, 4, 8, 12, 16, 20, 24, 28]
    assert len({each["seed"] for each in plans}) == 8
    assert timing_plan(RunArgs(min_runs=1), 4)["min_runs"] == 1


def test_there_are_no_more_processes_than_runs(children):
    run = bench(["build"], ["fps"], run=RunArgs(device="cpu", processes=5, min_runs=2, max_runs=2, control=False))
    assert [each.process for each in run] == [0, 1]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"architectures": ["original", "original"]}, "two architectures are named 'original'"),
        ({"architectures": ["no/such/file.py:build"]}, "does not exist"),
        ({"architectures": [f"{DATA}/foreign_models.py:nothing"]}, "has no 'nothing'; it has build"),
        ({"architectures": ["no_such_package.models:build"]}, "there is no module"),
        ({"measures": ["speed"]}, "the measure 'speed' does not exist; choose from params, flops, fps, component_time, memory"),
        ({"workload": Workload.speed_test()}, "num_feature_levels is 4 and the workload speed-test has 3 levels"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_child_starts(children, asked, said):
    with pytest.raises(UsageError, match=said):
        benchmark(**{"workload": Workload.tiny(), **asked})
    assert not children


def test_a_sink_that_fails_ends_the_run_with_its_own_sentence(children):
    class Full:
        def write(self, *records: Record) -> None:
            raise MeasurementError("the disk is full.")

    with pytest.raises(MeasurementError, match="the disk is full"):
        bench(["build", "wider"], ["params"], sink=Full())


def test_an_interrupt_keeps_what_was_written_and_leaves_no_child(children, tmp_path):
    def interrupt(event):
        if event["architecture"] == "hangs" and event["status"] == "running" and event["stage"] != "prediction":
            raise KeyboardInterrupt

    with RecordWriter(tmp_path / RECORDS_NAME) as sink, pytest.raises(KeyboardInterrupt):
        bench(["build", "hangs"], ["memory"], sink=sink, progress=interrupt)
    assert rows(load(tmp_path)) == [("memory", "build", 0, "ok")]
    alive = subprocess.run(["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False).stdout
    assert "fake_worker" not in alive


def test_a_killed_parent_loses_what_one_child_was_about_at_most_and_a_resumed_run_doubles_none(children, tmp_path):
    script = (
        "import sys, humar_bench.running.bench as m; from humar_bench.running import costs\n"
        "from humar_bench.running.children import Child; from humar_bench.args import *\n"
        "from humar_bench.records.record import load; from humar_bench.records.writer import RecordWriter\n"
        f"m.Child = costs.Child = lambda request, **more: Child(request, **more, command={FAKE!r})\n"
        f"m.benchmark({foreign('build', 'wider')!r}, ModelArgs(), Workload.tiny(), run=RunArgs(device='cpu', processes=3, control=False),"
        f" sink=RecordWriter({str(tmp_path)!r}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2]), "TMPDIR": str(tmp_path)}
    path = tmp_path / RECORDS_NAME
    for wanted in (1, 4, 8):
        path.write_bytes(b"")
        parent = subprocess.Popen([sys.executable, "-c", script], env=environment)
        while parent.poll() is None and path.read_bytes().count(b"\n") < wanted:
            time.sleep(0.005)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        kept = load(tmp_path)
        children.clear()
        with RecordWriter(tmp_path) as sink:
            run = bench(["build", "wider"], run=RunArgs(device="cpu", processes=3, control=False), sink=sink, done=kept)
        assert len(kept) >= wanted and len(run) == 14 == len(set(rows(run))) and not run.failed
        assert load(tmp_path) == Run(run.records)
        asked = [row for each in ran(children) for row in (each[1:] if each[0] == "count" else each[2:])]
        assert len([row for row in asked if row[0] != "peak"]) == 14 - len(kept)


def test_half_of_a_surrogate_pair_in_what_a_child_says_costs_nothing(children, tmp_path):
    """No file and no screen takes one; it stands as its escape from the record on."""
    with RecordWriter(tmp_path / "r.jsonl") as sink:
        run = bench(["build", "half_pair"], ["params", "fps"], sink=sink)
    assert len(load(tmp_path / "r.jsonl")) == len(run) == 5
    for record in load(tmp_path / "r.jsonl").select(architecture="half_pair"):
        assert record.reason == "half_pair raised \\ud800." and record.id == record.digest
    assert {each.status for each in run.select(architecture="build")} == {"ok"}
    assert "half_pair raised \\ud800." in compare(run).failures[0]


@pytest.mark.parametrize("name", ["half \ud800", "\udcff"])
def test_half_of_a_surrogate_pair_in_a_name_stands_as_its_escape(children, tmp_path, name):
    specs = [f"{name}={DATA}/foreign_models.py:build", *foreign("wider")]
    with RecordWriter(tmp_path / "r.jsonl") as sink:
        run = benchmark(specs, ModelArgs(), Workload.tiny(), ["params"], RunArgs(device="cpu"), sink=sink)
    assert [each.architecture for each in load(tmp_path / "r.jsonl")] == [name.encode("utf-8", "backslashreplace").decode(), "wider"]
    assert not run.failed
    again = benchmark(specs, ModelArgs(), Workload.tiny(), ["params"], RunArgs(device="cpu"), done=load(tmp_path / "r.jsonl"))
    assert len(again) == 2 and len([each for each in children if each["measure"] == "count"]) == 1  # known as measured
