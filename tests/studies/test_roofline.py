"""Floors, shares and what holds a forward back, from made-up records; the command on a tiny piece of work with small ceilings."""

from __future__ import annotations

import dataclasses
import json

import pytest

from humar_bench import cli
from humar_bench.args import ModelArgs, RunArgs, Workload
from humar_bench.errors import UsageError
from humar_bench.measures.ceilings import CeilingPlan
from humar_bench.records.record import CEILINGS, MACHINE, Run, load
from humar_bench.report.study import study_csv, study_json, study_markdown
from humar_bench.running.costs import Point
from humar_bench.running.plan import Plan
from humar_bench.studies.roofline import measure as measuring
from humar_bench.studies.roofline import roofline
from humar_bench.studies.roofline import worker as ceilings_worker
from humar_bench.studies.roofline.measure import measure_roofline
from humar_bench.studies.roofline.roofline import floor_of, precision_of, read_ceilings
from humar_bench.subjects.registry import Architecture
from tests.golden import check_golden
from tests.golden.records import ENVIRONMENT, TIME

OK = {"status": "ok", "kind": "", "reason": "", "built": {}}
COSTS = {"original": (300e9, 800, 60), "efficient": (30e9, 500, 20)}  # FLOPs, operators, MiB of weights
MIB = 2**20


def pace(seconds: float) -> dict:
    return {"fastest_s": seconds, "median_s": 1.25 * seconds, "blocks": 20, "calls_per_block": 4, "by": "wall time"}


def rates(scale: float = 1.0, *, launch: bool = False, **flops_per_s: float) -> dict:
    """A ceilings record's values: 100 GFLOP/s in the larger of two matmuls, 10 GiB/s, 1 us an operator, 2 us an empty kernel."""
    matmul = [
        {"precision": name, "size": size, "flops_per_s": rate * scale, "median_flops_per_s": 0.8 * rate * scale, **pace(0.1)}
        for name, largest in (flops_per_s or {"float32": 100e9}).items() for size, rate in ((512, 0.7 * largest), (1024, largest))
    ]
    copied = {"buffer_bytes": 2**28, "bytes_per_s": 10 * 2**30 * scale, "median_bytes_per_s": 8 * 2**30 * scale, **pace(0.05)}
    return {"matmul": matmul, "copy": copied, "operator": pace(1e-6), "launch": pace(2e-6) if launch else None, "threads": 2}


def plan_of(**run) -> Plan:
    sides = tuple(Architecture(name, name, False) for name in COSTS)
    return Plan(sides, "original", ModelArgs(), Workload.uniphd(1), RunArgs(**{"device": "cpu", **run}))


def exact(points, run, **more):
    records = []
    for point in points:
        flops, operators, weights = COSTS[point.architecture.name]
        measured = {
            "params": {"total": 1}, "flops": {"matmul_flops": int(flops), "kernels": operators},
            "memory": {"weights_bytes": weights * MIB, "buffers_bytes": MIB, "inputs_bytes": 34 * MIB, "outputs_bytes": 5 * MIB,
                       "predicted_bytes": 1},
        }
        for measure in ("params", "flops", "memory"):
            made = point.record(measure, run, {**OK, "measured": measured[measure]}, ENVIRONMENT, "humar-bench roofline")
            records.append(dataclasses.replace(made, time=TIME, id=""))
    return records


class FakeBench:
    """Stands for `benchmark`: the original takes 12 s a forward, the replacement 1.5; with `device_s` a share of it on the device."""

    def __init__(self, device_share: float | None = None, **measured) -> None:
        self.device_share, self.measured, self.clock_s = device_share, measured, 0.0

    def __call__(self, architectures, args, workload, measures, run, *, sink, progress, **more):
        for process in range(run.processes):
            progress({"status": "started", "process": process, "of": run.processes, "architecture": ""})
            self.clock_s += 20
            for each in architectures:
                wall_s = [{"original": 12.0, "efficient": 1.5}[each.name]] * 20
                share = self.device_share
                device = {"device_s": [share * one for one in wall_s], "gate_held": [True] * 20} if share else {"device_s": None}
                measured = {
                    "process": process, "child": f"child {process}", "wall_s": wall_s, "cpu_s": wall_s, "preempted": [False] * 20, **device,
                    "first_call_s": 2.0, "warmup_runs": 2, "steady": True, "finite": True, "batch": 1, "spent_s": 30.0, **self.measured,
                }
                made = Point(each, args, workload).record("fps", run, {**OK, "measured": measured}, ENVIRONMENT, "humar-bench roofline")
                sink.write(dataclasses.replace(made, process=process, time=TIME, id=""))


def study_of(plan=None, *ceilings: dict, bench: FakeBench | None = None, environment=ENVIRONMENT, **more):
    """A roofline with these ceilings, before the forwards and after."""
    answers = iter(ceilings or (rates(), rates()))
    bench = bench or FakeBench()
    return measure_roofline(
        plan or plan_of(), exact=exact, bench=bench, now=lambda: bench.clock_s, command="humar-bench roofline",
        ceilings=lambda run: {"environment": environment, "result": {**OK, "measured": next(answers)}}, **{"budget_s": 300, **more},
    )


def rows_of(study) -> dict[str, dict]:
    return {row["architecture"]: row for row in study.rows}


# Arithmetic


def test_the_floor_is_the_larger_of_flops_and_bytes_at_the_machines_own_rates():
    ceiling = read_ceilings([rates()])
    compute = floor_of(200 * 10**9, 5 * 2**30, ceiling, "float32")
    assert (compute.compute_s, compute.memory_s) == pytest.approx((2.0, 0.5)) and (compute.seconds, compute.bound) == (2.0, "compute")
    memory = floor_of(20 * 10**9, 5 * 2**30, ceiling, "float32")
    assert (memory.seconds, memory.bound) == (pytest.approx(0.5), "memory")
    assert floor_of(1, 1, ceiling, "float16") is None


def test_the_largest_size_and_the_better_process_set_the_ceiling_and_a_difference_is_seen():
    found = read_ceilings([rates(), rates(1.3)])
    assert found.flops_per_s == {"float32": pytest.approx(130e9)} and found.bytes_per_s == pytest.approx(13 * 2**30)
    assert found.moved == pytest.approx(0.3) and read_ceilings([rates()]).moved == 0
    assert found.rows[0]["at"] == "1024x1024" and read_ceilings([]) is None


def test_on_cuda_float32_is_tf32_where_torch_was_allowed_to():
    allowed, strict = {"tf32": {"matmul": True}}, {"tf32": {"matmul": False}}
    assert precision_of("float32", [allowed], "cuda:0") == "tf32" and precision_of("float32", [strict], "cuda:0") == "float32"
    assert precision_of("float32", [allowed], "cpu") == "float32" and precision_of("bfloat16", [allowed], "cuda") == "bfloat16"


# Reading


def test_shares_are_of_the_rate_that_binds_and_bytes_are_read_and_written_once():
    rows = rows_of(study_of())
    original, efficient = rows["original"], rows["efficient"]
    assert original["unavoidable_bytes"] == 100 * MIB and efficient["unavoidable_bytes"] == 60 * MIB
    assert original["floor_s"] == pytest.approx(3.0) and original["bound"] == "compute"
    assert original["achieved"] == pytest.approx(0.25) and original["times_floor"] == pytest.approx(4.0)
    assert efficient["achieved_flops_per_s"] == pytest.approx(20e9)
    assert efficient["flop_per_byte"] == pytest.approx(30e9 / (60 * MIB))


def test_on_a_cpu_operators_are_held_against_the_forward():
    rows = rows_of(study_of())
    assert rows["original"]["overhead_s"] == pytest.approx(800e-6) and rows["original"]["launch_bound"] == "no"
    slow = rates() | {"operator": pace(2e-3)}
    rows = rows_of(study_of(None, slow, slow))
    assert rows["efficient"]["overhead_share"] == pytest.approx(2 / 3) and rows["efficient"]["launch_bound"] == "yes"
    assert rows["original"]["launch_bound"] == "no"


@pytest.mark.parametrize(("share", "said"), [(0.95, "no"), (0.5, "yes")])
def test_on_a_stream_wall_time_over_device_time_says_who_sets_the_pace(share, said):
    given = rates(launch=True, float32=50e12, tf32=350e12, bfloat16=700e12, float16=700e12)
    study = study_of(plan_of(device="cuda"), given, given, bench=FakeBench(share), environment={**ENVIRONMENT, "device": "cuda:0"})
    row = rows_of(study)["original"]
    assert row["launch_bound"] == said and row["overhead_s"] == pytest.approx(800 * 2e-6)
    assert row["device_median_s"] == pytest.approx(12 * share) and row["compute_floor_s"] == pytest.approx(300e9 / 50e12)
    assert "an empty kernel's launch" in study_markdown(study)


def test_tf32_forwards_are_held_against_the_tf32_rate():
    given = rates(launch=True, float32=50e12, tf32=350e12)
    bench, environment = FakeBench(0.9, tf32={"matmul": True, "cudnn": True}), {**ENVIRONMENT, "device": "cuda:0"}
    row = rows_of(study_of(plan_of(device="cuda"), given, given, bench=bench, environment=environment))["original"]
    assert row["precision"] == "tf32" and row["compute_floor_s"] == pytest.approx(300e9 / 350e12)


def test_a_backend_that_fuses_operators_has_no_count_of_them():
    study = study_of()
    fused = Run(tuple(dataclasses.replace(each, run={**each.run, "backend": "compile"}, id="") for each in study.run))
    row = rows_of(roofline.restore(fused, study.settings))["original"]
    assert row["operators"] is None and "overhead_s" not in row and row["achieved"] == pytest.approx(0.25)


def test_tables_of_a_whole_roofline():
    study = study_of(None, rates(), rates(1.25))
    check_golden("roofline.md", study_markdown(study))
    assert study_csv(study).startswith("architecture,precision,matmul_flops,weights_bytes,")
    assert "\nceiling,kind,fastest,median,unit" in study_csv(study)
    assert "Ceilings differ by 25 % between two processes" in study_markdown(study)
    document = json.loads(study_json(study))
    assert [row["architecture"] for row in document["rows"]] == ["original", "efficient"] and document["failures"] == []


def test_without_times_there_are_floors_and_nothing_else():
    study = study_of(timed=False)
    assert rows_of(study)["original"]["floor_s"] == pytest.approx(3.75 / 1.25) and "achieved" not in rows_of(study)["original"]
    assert "median_s" not in study_csv(study) and "forward" not in study_markdown(study).partition("## What")[0].partition("Floor:")[0]
    assert len(study.run.select(measure=CEILINGS)) == 1


def test_ceilings_that_could_not_be_measured_leave_the_counts_and_say_so():
    lost = {"environment": {}, "result": {"status": "failed", "kind": "crash", "reason": "it crashed.", "built": {}, "measured": None}}
    bench = FakeBench()
    study = measure_roofline(plan_of(), exact=exact, bench=bench, now=lambda: bench.clock_s, budget_s=300, ceilings=lambda run: lost)
    assert study.failures == ("ceilings of this machine failed: it crashed.",)
    row = rows_of(study)["original"]
    assert "floor_s" not in row and row["median_s"] == 12.0 and row["matmul_flops"] == int(300e9)
    assert "This machine's own ceilings" not in study_markdown(study)


def test_what_was_measured_is_not_measured_again():
    kept: list = []
    sink = type("Sink", (), {"write": lambda self, *records: kept.extend(records)})()
    first = study_of(sink=sink)
    assert [each.architecture for each in kept if each.measure == CEILINGS] == [MACHINE, MACHINE]

    def refuse(run):
        raise AssertionError("measured again")

    again = measure_roofline(
        plan_of(), done=Run(tuple(kept)), exact=exact, bench=lambda *given, **named: None, ceilings=refuse, budget_s=300, now=lambda: 0.0
    )
    assert rows_of(again)["original"]["achieved"] == rows_of(first)["original"]["achieved"]


def test_a_dtype_without_a_rate_is_refused_before_anything_starts():
    plan = dataclasses.replace(plan_of(), run=type("Run", (), {"dtype": "int8"})())
    with pytest.raises(UsageError, match="dtype is 'int8'; roofline measures the matmul rate of float32, tf32, bfloat16, float16"):
        measure_roofline(plan)


# The command


@pytest.fixture
def small_ceilings(monkeypatch):
    """The worker in this process, with matrices and buffers that take no time."""
    monkeypatch.setattr(CeilingPlan, "of", classmethod(lambda cls, device: CeilingPlan((32, 64), 2**16, 0.005)))
    monkeypatch.setattr(measuring, "ask_ceilings", lambda run, hear: ceilings_worker.answer({"run": dataclasses.asdict(run)}))


def test_the_command_counts_and_measures_and_writes_its_folder(capsys, tmp_path, small_ceilings):
    small = [part for each in ("hidden_dim=32", "enc_layers=1", "dec_layers=1", "efficient_enc_layers=2") for part in ("--set", each)]
    typed = ["roofline", "--no-time", "--workload", "tiny", "--device", "cpu", *small]
    assert cli.main([*typed, "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "bound by" in out and "This machine's own ceilings" in out and "copy, read and write" in out
    assert {path.name for path in tmp_path.iterdir()} >= {"records.jsonl", "roofline.md", "roofline.csv", "ceilings.csv"}
    run = load(tmp_path)
    assert run.architectures == ("original", "efficient") and len(run.select(measure=CEILINGS)) == 1
    header, *lines = (tmp_path / "roofline.csv").read_text().splitlines()
    for line in lines:
        row = dict(zip(header.split(","), line.split(","), strict=True))
        parts = sum(int(row[f"{part}_bytes"]) for part in ("weights", "buffers", "inputs", "outputs"))
        assert int(row["unavoidable_bytes"]) == parts > 0
        assert float(row["floor_s"]) == max(float(row["compute_floor_s"]), float(row["memory_floor_s"])) > 0


@pytest.mark.parametrize(("more", "sentence"), [
    (["--device", "cuda:99"], "cuda:99"), (["--budget", "0"], "--budget is 0; it must be a number of seconds above 0"),
    (["--arch", "nothing"], "the architecture 'nothing' is unknown"), (["-o", "a", "--resume", "b"], "give one of the two."),
])
def test_a_wrong_command_line_is_one_sentence(capsys, more, sentence):
    code = cli.main(["roofline", "--workload", "tiny", *more])
    said = capsys.readouterr().err
    assert code == 2 and sentence in said and said.count("\n") == 1
