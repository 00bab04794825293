"""Which rows there are, what they build, and how the table is made; nothing is timed here."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from humar_bench import cli
from humar_bench.args import EFFICIENT_PREFIX, ModelArgs, RunArgs, Workload
from humar_bench.records.record import AGAIN, Run
from humar_bench.report.study import study_csv, study_markdown
from humar_bench.running.costs import Point
from humar_bench.running.in_turn import timing_run
from humar_bench.running.plan import Plan
from humar_bench.studies import ablate
from humar_bench.studies.ablate import Ablation, measure_ablation
from humar_bench.studies.switches import DEFAULT, Switch, builder_name, other_values, settings_of, switches_of
from humar_bench.subjects.registry import Architecture, build, load_builder, parse_architecture
from humar_bench.subjects.transformer import make_inputs
from tests.golden import check_golden
from tests.golden.records import ENVIRONMENT, TIME
from tests.models import at_valid_places, shaken, with_noise_under_padding

OPTIONS = [each for each in dataclasses.fields(ModelArgs) if each.name.startswith(EFFICIENT_PREFIX)]


# The rows


@pytest.mark.parametrize("option", OPTIONS, ids=lambda each: each.name)
def test_no_switch_of_the_replacement_is_forgotten(option):
    rows = [row for row in switches_of(ModelArgs()) if list(row.changes) == [option.name]]
    assert rows and all(row.changes[option.name] != option.default for row in rows)


def test_a_switch_nobody_thought_of_yet_has_a_row_all_the_same():
    @dataclasses.dataclass
    class Later:
        efficient_new_flag: bool = True
        efficient_new_choice: str = dataclasses.field(default="a", metadata={"choices": ("a", "b", "c")})
        efficient_new_number: int = 3

    values = [other_values(each, Later()) for each in dataclasses.fields(Later)]
    assert values == [(False,), ("b", "c"), (6,)]


def test_the_rows_of_the_issue_are_there():
    rows = {row.name: row.changes for row in switches_of(ModelArgs())}
    assert next(iter(rows)) == DEFAULT and rows[DEFAULT] == {}
    assert {"nheads 8", "enc_layers 6", "mlp_ratio 4", "encoder_sets 4", "decoder_sets 6", "encoder_stride 1", "memory_stride 1",
            "memory_stride 4", "cross_tokens all", "encoder_samples off", "point_samples off", "local_conv off", "value_conv off",
            "graph_bias off",
            "sample_heads 1", "sample_points 4", "across_tokens all", "decoder_mlp_ratio 4", "rank 64", "look_mlp off",
            "instance_iterations 0", "skeleton_hops 2", "window 7",
            "exit_below 0.01"} <= set(rows)
    assert rows["untied"] == {"efficient_encoder_sets": 4, "efficient_decoder_sets": 6}
    assert rows["literal description"] == {
        "efficient_encoder_sets": 4, "efficient_decoder_sets": 6, "efficient_encoder_stride": 1,
        "efficient_memory_stride": 1, "efficient_cross_tokens": "all", "efficient_encoder_samples": False, "efficient_point_samples": False,
        "efficient_look_mlp": False, "efficient_instance_iterations": 0,
    }


def test_rows_start_from_what_is_asked_and_leave_out_what_cannot_be():
    rows = {row.name for row in switches_of(ModelArgs(hidden_dim=36, nheads=4, efficient_graph_bias=False, efficient_memory_stride=4))}
    assert "graph_bias on" in rows and "graph_bias off" not in rows
    assert "memory_stride 1" in rows and "memory_stride 4" not in rows
    assert "nheads 8" not in rows  # 8 does not divide 36


@pytest.mark.parametrize("row", switches_of(ModelArgs()), ids=lambda each: each.name)
def test_every_row_builds_what_its_name_says_also_where_it_is_typed(row):
    model = build(parse_architecture(row.architecture.spec), ModelArgs(), device="meta")
    asked = dataclasses.asdict(ModelArgs())
    assert {name: model.built[name] for name in asked if name.startswith(EFFICIENT_PREFIX)} == {
        name: row.changes.get(name, value) for name, value in asked.items() if name.startswith(EFFICIENT_PREFIX)
    }


def test_a_row_can_be_built_by_its_spec_from_anywhere_and_read_back():
    spec = Switch("x", {"efficient_graph_bias": False, "efficient_memory_stride": 4}).architecture.spec
    assert spec == "humar_bench.studies.ablate:efficient_graph_bias__false__and__efficient_memory_stride__4"
    assert settings_of(spec) == ["efficient_graph_bias=false", "efficient_memory_stride=4"] and settings_of("efficient") == []
    assert load_builder(spec)(ModelArgs(hidden_dim=32, nheads=4)).built["efficient_memory_stride"] == 4
    part = Switch("x", {"efficient_exit_below": 0.01, "efficient_decoder": "original", "efficient_window": 7})
    assert builder_name({"efficient_exit_below": 1e-5}).isidentifier()
    assert settings_of("x:" + builder_name({"efficient_exit_below": 1e-5})) == ["efficient_exit_below=0.00001"]
    assert settings_of("x:efficient_exit_below__0,01") == ["efficient_exit_below=0.01"]  # in records of before
    assert settings_of(part.architecture.spec) == [f"{name}={value}" for name, value in part.changes.items()]


@pytest.mark.parametrize("name", ["nothing", "efficient_nothing__4", "efficient_nheads__many", "efficient_nheads"])
def test_a_name_that_is_no_setting_is_no_attribute(name):
    with pytest.raises(AttributeError):
        getattr(ablate, name)


# Measuring and reading


def plan_of() -> Plan:
    return Plan((Architecture("efficient", "efficient", False),), "efficient", ModelArgs(), Workload.uniphd(1), RunArgs(device="cpu"))


def exact(points, run, **more):
    """The first row costs 1000 of everything, each further one 100 more."""
    ok = {"status": "ok", "kind": "", "reason": "", "built": {}}
    records = []
    for index, point in enumerate(points):
        amount = 1000 + 100 * index
        values = {"params": {"total": amount}, "flops": {"matmul_flops": amount * 10**6, "kernels": amount},
                  "memory": {"predicted_bytes": amount * 2**20, "peak_bytes": 0}}
        for measure, measured in values.items():
            made = point.record(measure, run, {**ok, "measured": measured}, ENVIRONMENT, "humar-bench ablate")
            records.append(dataclasses.replace(made, time=TIME, id=""))
    return records


class FakeBench:
    """Processes of 40 s each on a clock of its own; every row takes 1 ms, point_samples off half of it."""

    def __init__(self) -> None:
        self.clock_s, self.processes = 0.0, []

    def __call__(self, architectures, args, workload, measures, run, *, sink, progress, reference, **more) -> Run:
        assert measures == ["fps"] and reference == DEFAULT == architectures[0].name
        control = dataclasses.replace(architectures[0], name=DEFAULT + AGAIN)
        for process in range(run.processes):
            for each in architectures:
                progress({"measure": "fps", "process": process, "of": run.processes, "architecture": each.name, "status": "started"})
            self.clock_s += 40
            self.processes.append(process)
            sink.write(*[self.record(each, args, workload, run, process) for each in (*architectures, control)])
        return Run()

    def record(self, each, args, workload, run, process):
        took_s = (5e-4 if each.name == "point_samples off" else 1e-3) * (1 + 0.001 * process)
        measured = {
            "process": process, "child": f"child {process}", "wall_s": [took_s] * 20, "cpu_s": [took_s] * 20, "device_s": None,
            "preempted": [False] * 20,
            "first_call_s": took_s, "warmup_runs": 2, "steady": True, "finite": True, "batch": 1, "spent_s": 0.02,
        }
        made = Point(each, args, workload).record("fps", run, {"status": "ok", "kind": "", "reason": "", "built": {}, "measured": measured},
                                                  ENVIRONMENT, "humar-bench ablate")
        return dataclasses.replace(made, process=process, time=TIME, id="")


def test_ratios_are_multiples_of_the_default():
    study = measure_ablation(plan_of(), timed=False, exact=exact)
    rows = {row["switch"]: row for row in study.rows}
    assert [rows[DEFAULT][f"{key}_ratio"] for key in ("parameters", "matmul_flops", "operators", "peak_bytes")] == [1.0] * 4
    assert rows[study.names[1]]["matmul_flops_ratio"] == pytest.approx(1.1)
    assert rows["untied"]["sets"] == "efficient_encoder_sets=4, efficient_decoder_sets=6"
    check_golden("ablate.md", study_markdown(study))
    assert study_csv(study).startswith("switch,sets,parameters,parameters_ratio,matmul_flops,")
    assert "time_ratio" not in study_csv(study)


def test_times_are_multiples_of_the_defaults_with_an_interval_over_processes():
    bench = FakeBench()
    study = measure_ablation(plan_of(), budget_s=300, exact=exact, bench=bench, now=lambda: bench.clock_s)
    rows = {row["switch"]: row for row in study.rows}
    assert bench.processes == [0, 1, 2, 3, 4, 5] and rows["untied"]["processes"] == 6
    half = rows["point_samples off"]
    assert half["time_ratio"] == pytest.approx(0.5) and half["time_low"] <= 0.5 <= half["time_high"]
    assert rows["untied"]["time_ratio"] == pytest.approx(1.0) and rows[DEFAULT]["time_ratio"] == 1.0
    assert "the interval is over processes" in " ".join(study.tables[0].feet)


def test_no_process_is_begun_that_would_end_after_the_budget():
    bench = FakeBench()
    study = measure_ablation(plan_of(), budget_s=100, exact=exact, bench=bench, now=lambda: bench.clock_s)
    assert bench.processes == [0, 1] and bench.clock_s == 80
    bench = FakeBench()
    study = measure_ablation(plan_of(), budget_s=1, exact=exact, bench=bench, now=lambda: bench.clock_s)
    assert bench.processes == [0] and "one gives no interval" in " ".join(study.tables[0].feet)


def test_what_was_measured_goes_to_the_sink_and_a_failure_is_said():
    def failing(points, run, **more):
        lost = {"status": "failed", "kind": "crash", "reason": "it crashed.", "built": {}, "measured": None}
        records = exact(points, run)
        records[4] = points[1].record("flops", run, lost, {})
        return records

    study = measure_ablation(plan_of(), timed=False, exact=failing)
    assert study.failures == ("flops of nheads 8 failed: it crashed.",)
    assert next(row for row in study.rows if row["switch"] == "nheads 8")["matmul_flops"] is None
    bench, kept = FakeBench(), []
    sink = type("Sink", (), {"write": lambda self, *records: kept.extend(records)})()
    measure_ablation(plan_of(), budget_s=300, exact=exact, bench=bench, now=lambda: bench.clock_s, sink=sink)
    assert len(kept) == 6 * (len(switches_of(ModelArgs())) + 1)


def test_a_longer_budget_times_every_row_longer_and_never_less_than_a_tenth_of_a_second():
    short, long = (timing_run(RunArgs(), budget_s, 15) for budget_s in (10, 600))
    assert short.budget == pytest.approx(0.3) and long.budget > 10 * short.budget
    assert (short.processes, timing_run(RunArgs(), 300, 15).processes, long.processes) == (3, 6, 7) and short.control


def test_the_command_counts_real_rows(in_process, capsys):
    typed = ["ablate", "--no-time", "--workload", "tiny", "--device", "cpu", "--csv", "-",
             *(part for each in ("hidden_dim=32", "dec_layers=1", "efficient_enc_layers=2") for part in ("--set", each))]
    assert cli.main(typed) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(switches_of(ModelArgs(hidden_dim=32, dec_layers=1, efficient_enc_layers=2)))
    header = lines[0].split(",")
    rows = {line.split(",")[0]: line for line in lines[1:]}
    assert float(rows["mlp_ratio 4"].split(",")[header.index("parameters_ratio")]) > 1.01
    assert float(rows["memory_stride 4"].split(",")[header.index("parameters_ratio")]) == 1.0


def test_the_study_can_be_made_again_from_its_records():
    bench = FakeBench()
    study = measure_ablation(plan_of(), budget_s=300, exact=exact, bench=bench, now=lambda: bench.clock_s)
    assert study_markdown(Ablation(Run(study.run.records))) == study_markdown(study)


def test_values_under_the_padding_change_no_valid_output_of_any_row_by_a_single_bit(tiny_args):
    padded = dataclasses.replace(Workload.tiny(batch=2), padded=True)
    inputs = make_inputs(tiny_args, padded)
    rows = switches_of(tiny_args)
    assert {"literal description", "memory_stride 1", "cross_tokens all"} <= {row.name for row in rows}
    for row in rows:
        model = shaken(build(row.architecture, tiny_args))
        with torch.inference_mode():
            plain = at_valid_places(model(*inputs), inputs.masks)
            noisy = at_valid_places(model(*with_noise_under_padding(inputs)), inputs.masks)
        assert [key for key in plain if not torch.equal(plain[key], noisy[key])] == [], row.name
