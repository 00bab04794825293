"""Variants: part by part equals whole by whole, to the parameter, the FLOP and the byte; the table sorts, marks and leaves out."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest
import torch

from humar_bench import cli
from humar_bench.args import BACKBONES, TEXT_ENCODERS, ModelArgs, RunArgs, WholeWorkload, Workload
from humar_bench.errors import UsageError
from humar_bench.measures.flops import count_flops
from humar_bench.measures.memory_prediction import predict_peak
from humar_bench.measures.params import count_parameters
from humar_bench.records.contradictions import contradictions
from humar_bench.records.record import AGAIN, Record
from humar_bench.report.study import read_study, write_study
from humar_bench.running.plan import Plan
from humar_bench.running.task import Task
from humar_bench.studies import MAKERS
from humar_bench.studies.variants import timing, worker
from humar_bench.studies.variants.parts import Parts
from humar_bench.studies.variants.stand_in import Layout
from humar_bench.studies.variants.variants import Variants, measure_variants, pareto_front, points_of
from humar_bench.subjects.registry import parse_architecture, parse_architectures
from humar_bench.subjects.subject import subject_of

SMALL = {"image_size": (60, 90), "num_queries": 4, "batch": 2, "padded": True}


@pytest.fixture(scope="module")
def small_args() -> ModelArgs:
    return ModelArgs(
        hidden_dim=32, nheads=4, dim_feedforward=48, enc_layers=1, dec_layers=2, num_queries=4, num_body_points=6, efficient_nheads=2,
        efficient_enc_layers=2,
    )


def counted_whole(args, workload, architecture):
    """Parameters, FLOPs and peak of a model that is built in one piece."""
    subject, each = subject_of(args, workload), parse_architecture(architecture)

    def model(device):
        return subject.build(each, device=device, dtype=torch.float32, seed=0)

    def inputs(device):
        return subject.inputs(device=device, dtype=torch.float32, seed=0)

    flops = count_flops(model("meta"), inputs("meta"), strict=True)
    return count_parameters(model("meta")), flops, predict_peak(lambda: model("cpu"), lambda: inputs("cpu"))


# Maps that lie channel by channel and cell by cell, features of one token and of all, peaks in backbone, text encoder, transformer, masks.
@pytest.mark.parametrize(("architecture", "given", "peak_in"), [
    pytest.param("original", {**SMALL, "backbone": "swin_T_224_1k", "text_encoder": "minilm"}, "transformer: encoder",
                 marks=pytest.mark.slow),
    ("efficient", {**SMALL, "backbone": "segformer_mit_b0", "text_encoder": "tite"}, "mask head"),
    ("efficient", {**SMALL, "backbone": "mobilevit_xxs", "text_encoder": "tinybert", "prompt": "scribble", "masks": "best"}, "backbone"),
    ("original", {**SMALL, "backbone": "mobilevit_xxs", "text_encoder": "tinybert", "caption_tokens": 512, "image_size": (32, 32)},
     "text encoder"),
    pytest.param("original", {**SMALL, "backbone": "efficientformerv2_s0", "text_encoder": "tinybert", "image_size": (96, 128),
                              "masks": "best", "num_queries": 40}, "transformer: decoder", marks=pytest.mark.slow),
])
def test_part_by_part_is_what_the_whole_model_costs(small_args, architecture, given, peak_in):
    args = dataclasses.replace(small_args, num_queries=given["num_queries"], dim_feedforward=2048 if "caption_tokens" not in given else 48)
    workload = WholeWorkload(**given)
    costs = Parts(args, workload).costs(parse_architecture(architecture), workload.backbone, workload.text_encoder)
    parameters, flops, peak = counted_whole(args, workload, architecture)
    assert {name: costs["params"][name] for name in ("total", "trainable", "listed", "buffers", "param_bytes", "buffer_bytes")} == {
        name: getattr(parameters, name) for name in ("total", "trainable", "listed", "buffers", "param_bytes", "buffer_bytes")}
    assert costs["params"]["components"] == parameters.components
    measured = flops.measured()
    same = ("matmul_flops", "second_tier_flops", "second_tier", "macs", "kernels", "synchronisations", "batch", "uncounted", "operators")
    assert {name: costs["flops"][name] for name in same} == {name: measured[name] for name in same}
    assert _counted(costs["flops"]["components"]) == _counted(flops.components)
    same = ("weights_bytes", "buffers_bytes", "inputs_bytes", "outputs_bytes", "peak_bytes", "peak_operator", "peak_component")
    assert {name: costs["memory"][name] for name in same} == {name: getattr(peak, name) for name in same}
    work = dataclasses.asdict(workload)
    assert [contradictions(measure, each, work) for measure, each in costs.items()] == [[], [], []]
    assert sum(costs["memory"]["by_component"].values()) == costs["memory"]["peak_bytes"]
    assert peak.peak_component == peak_in


def _counted(components):
    return {name: each for name, each in components.items() if any(each.values())}


def test_parts_are_shared(small_args, monkeypatch):
    built = []
    monkeypatch.setattr(Parts, "_built", lambda self, name, make, own=Parts._built: built.append(name) or own(self, name, make))
    parts = Parts(small_args, WholeWorkload(**SMALL))
    for text in ("tinybert", "tinybert", "minilm"):
        for backbone in ("mobilevit_xxs", "segformer_mit_b0"):
            parts.costs(parse_architecture("efficient"), backbone, text)
    assert [built.count(name) for name in ("mobilevit_xxs", "segformer_mit_b0", "tinybert", "minilm")] == [1, 1, 1, 1]


def test_a_layout_keeps_who_shares_memory():
    whole = torch.arange(12.0).view(3, 4)
    values = ([whole[1:], whole.t()], torch.zeros(2, dtype=torch.int64), "word", None)
    layout = Layout.of(values)
    made = layout.made("cpu")
    assert layout.storages == (48, 16) and made[2:] == ("word", None)
    assert made[0][0].untyped_storage().data_ptr() == made[0][1].untyped_storage().data_ptr()
    assert made[0][1].stride() == (1, 4) and made[0][0].storage_offset() == 4 and made[1].dtype == torch.int64
    assert Layout.of(made) == layout and hash(Layout.of(made)) == hash(layout)
    assert Layout.of((whole.contiguous().t(),)) != Layout.of((whole.t().contiguous(),))


# The study ------------------------------------------------------------------------------------------------------------------------


def a_plan(*architectures: str) -> Plan:
    return Plan(tuple(parse_architectures(architectures)), architectures[0], ModelArgs(), WholeWorkload(batch=1), RunArgs(device="cpu"))


def made_up(points, run, *, keep, program, **more):
    """Records whose costs depend on the names alone: parameters grow with the backbone's place, FLOPs shrink with it."""
    records = []
    for point in points:
        at, text = BACKBONES.index(point.workload.backbone) + 1, TEXT_ENCODERS.index(point.workload.text_encoder) + 1
        size, work = 10_000_000 * at + 1000 * text, 1_000_000 * (20 - at) + 10 * text
        components = {"backbone": 10_000_000 * at, "text encoder": 1000 * text, "transformer: encoder": 0, "heads": 0}
        amounts = {name: {"matmul_flops": each, "second_tier_flops": 0} for name, each in components.items()}
        found = {
            "params": {"total": size, "components": components},
            "flops": {"matmul_flops": work, "second_tier_flops": 0, "components": amounts, "operators": []},
            "memory": {"weights_bytes": 4 * size, "peak_bytes": 5 * work, "peak_component": "backbone", "by_component": {}},
        }
        made = [point.record(measure, run, {"measured": each}, {"torch": "2"}) for measure, each in found.items()]
        keep(*made)
        records += made
    return records


def test_every_combination_is_a_point():
    points = points_of(a_plan("original", "efficient"), (), ())
    assert len(points) == 2 * len(BACKBONES) * len(TEXT_ENCODERS) == len({point.key("params", RunArgs()) for point in points})
    some = points_of(a_plan("efficient"), ("mobilevit_s",), ("minilm", "albert"))
    assert [(each.workload.backbone, each.workload.text_encoder) for each in some] == [("mobilevit_s", "minilm"), ("mobilevit_s", "albert")]


def test_rows_are_sorted_and_the_front_is_marked():
    found = measure_variants(a_plan("efficient"), ("segformer_mit_b0", "swin_T_224_1k"), ("minilm", "roberta"), exact=made_up)
    assert [(row["backbone"], row["text_encoder"], row["pareto"]) for row in found.rows] == [
        ("swin_T_224_1k", "roberta", "front"), ("swin_T_224_1k", "minilm", ""),
        ("segformer_mit_b0", "roberta", "front"), ("segformer_mit_b0", "minilm", ""),
    ]
    assert found.rows[0]["parameters"] == 10_001_000 and found.rows[0]["peak_bytes"] == 5 * (19_000_000 + 10)


def test_most_leaves_out_what_is_larger_and_says_so():
    found = measure_variants(a_plan("efficient"), ("segformer_mit_b0", "swin_T_224_1k"), ("minilm",), most=15, exact=made_up)
    assert [row["backbone"] for row in found.rows] == ["swin_T_224_1k"]
    assert "1 of 2 variants have more than 15 M parameters and are left out." in found.tables[0].feet


def test_published_numbers_stand_beside_ours():
    found = measure_variants(a_plan("efficient"), ("segformer_mit_b0",), ("tite",), exact=made_up)
    parts = {row["part"]: row for row in found.parts}
    assert parts["segformer_mit_b0"]["counted_to_published"] == 20 / 3.7
    assert parts["tite"]["published"] == 1e6 and parts["tite"]["counted_to_published"] == 7000 / 1e6


def test_a_failed_variant_is_a_row_with_its_reason():
    def exact(points, run, **more):
        failed = {"status": "failed", "kind": "error", "reason": "x cannot.", "measured": None}
        return [*made_up(points[:1], run, **more), points[1].record("params", run, failed, {})]

    found = measure_variants(a_plan("efficient"), ("segformer_mit_b0",), ("tite", "minilm"), exact=exact)
    assert [row.get("reason") for row in found.rows] == [None, "x cannot."]
    assert found.failures == ("params of efficient failed: x cannot.",)


def test_a_folder_gives_the_same_tables_again(tmp_path):
    found = measure_variants(a_plan("efficient"), ("segformer_mit_b0",), ("tite", "minilm"), most=25, exact=made_up)
    write_study(found, tmp_path)
    again = read_study(tmp_path, found.run, MAKERS)
    assert isinstance(again, Variants) and again.rows == found.rows and again.settings == {"most": 25, "reference": ""}
    assert (tmp_path / "variants.csv").exists() and (tmp_path / "parts.csv").exists()


@pytest.mark.parametrize(("costs", "front"), [
    ([(1, 2), (2, 1), (2, 2)], [True, True, False]), ([(1, 1), (1, 1)], [True, True]), ([(3, 1), (1, 3), (2, 2)], [True] * 3),
    ([(1, 2), (1, 1)], [False, True]),
])
def test_the_front_is_what_nothing_beats(costs, front):
    assert pareto_front(costs) == front


def test_the_child_answers_for_all_items_and_says_what_failed(small_args, monkeypatch):
    told = []
    monkeypatch.setattr(Task, "tell", lambda self, stage, name, **more: told.append((stage, name, more)))
    whole = WholeWorkload(**SMALL, backbone="mobilevit_xxs", text_encoder="tinybert")
    items = [
        {"architecture": dataclasses.asdict(parse_architecture(name)), "measure": measure, "work": 0}
        for name in ("efficient", "broken=tests.studies.test_variants:raises") for measure in ("params", "memory")
    ]
    works = [{"asked": dataclasses.asdict(small_args), "workload": json.loads(json.dumps(dataclasses.asdict(whole)))}]
    worker.answer({"items": items, "works": works, "run": dataclasses.asdict(RunArgs(device="cpu"))})
    assert [(stage, name) for stage, name, _ in told] == [(stage, name) for name in ("efficient",) * 2 + ("broken",) * 2
                                                         for stage in ("count", "counted")]
    found = [more["result"] for stage, _, more in told if stage == "counted"]
    assert [each["status"] for each in found] == ["ok", "ok", "failed", "failed"]
    assert found[0]["built"]["num_queries"] == 4 and found[0]["measured"]["total"] > 0 and found[1]["measured"]["peak_bytes"] > 0
    assert "the builder of broken raised ValueError: no" in found[2]["reason"]


def raises(args: ModelArgs):
    raise ValueError("no")


# Times ----------------------------------------------------------------------------------------------------------------------------


class Clock:
    """Every process of the bench takes as many seconds as its architectures' forwards say."""

    def __init__(self) -> None:
        self.at_s, self.asked, self.written = 0.0, [], 0

    def now(self) -> float:
        return self.at_s

    def bench(self, architectures, args, workload, measures, run, *, sink, progress, done, command, reference):
        """Stands in for bench.benchmark: a forward takes 1 ms a million FLOPs, exactly."""
        self.asked.append((tuple(each.name for each in architectures), run, reference))
        for process in range(run.processes):
            progress({"process": process, "of": run.processes, "architecture": "", "status": "started"})
            again = [dataclasses.replace(architectures[0], name=architectures[0].name + AGAIN)]
            for each in [*architectures, *again]:
                at = BACKBONES.index(each.settings["backbone"]) + 1
                text = TEXT_ENCODERS.index(each.settings["text_encoder"]) + 1
                wall_s = 1e-9 * (1_000_000 * (20 - at) + 10 * text)
                self.at_s += 3.0
                measured = {"wall_s": [wall_s * (1 + 0.001 * k) for k in range(4)], "cpu_s": [wall_s] * 4, "batch": 1, "process": process,
                            "child": f"{run.seed}-{process}", "first_call_s": wall_s}
                record = Record("fps", each.name, each.spec, False, dataclasses.asdict(args), dataclasses.asdict(workload),
                                dataclasses.asdict(run), process=process, measured=measured, environment={"torch": "2"})
                if record.key not in {earlier.key for earlier in done}:
                    self.written += 1
                    sink.write(record)


def timed(budget_s=1e9, backbones=BACKBONES[:6], **more):
    clock = Clock()
    found = measure_variants(a_plan("efficient"), backbones, ("minilm",), timed=True, budget_s=budget_s, exact=made_up,
                             bench=clock.bench, now=clock.now, **more)
    return found, clock


def test_variants_are_timed_beside_the_same_reference_the_cheapest_first():
    found, clock = timed()
    names = [[name.split(" + ")[0] for name in asked] for asked, _, _ in clock.asked]
    assert names == [[*BACKBONES[5:0:-1]], [BACKBONES[5], BACKBONES[0]]]
    assert {reference for _, _, reference in clock.asked} == {found.reference} == {f"{BACKBONES[5]} + minilm + efficient"}
    assert [run.seed for _, run, _ in clock.asked] == [0, 1] and all(run.control and run.processes >= 3 for _, run, _ in clock.asked)
    rows = {row["backbone"]: row for row in found.rows}
    assert all("median_s" in row for row in rows.values()) and rows[BACKBONES[5]]["time_ratio"] == 1
    assert rows[BACKBONES[0]]["time_ratio"] == pytest.approx(19 / 14, rel=1e-3)
    assert rows[BACKBONES[0]]["time_low"] <= rows[BACKBONES[0]]["time_ratio"] <= rows[BACKBONES[0]]["time_high"]
    assert "6 of 6 variants were timed" in found.tables[0].feet[1]


def test_a_comparison_that_would_not_end_within_the_budget_is_not_begun():
    found, clock = timed(budget_s=60.0)
    assert len(clock.asked) == 1
    assert [row["backbone"] for row in found.rows if "median_s" not in row] == [BACKBONES[0]]
    assert "5 of 6 variants were timed" in found.tables[0].feet[1]


def test_the_next_comparisons_budget_follows_from_the_rate_of_the_one_before():
    slow = dict.fromkeys(("a", "b"), 10)
    assert timing._needed_s([10, 10], 0.0) == timing.ROW_S * 2 == 24
    assert timing._needed_s([10, 10], 1.0) == 3 * (timing.START_S + 3 * timing.BUILD_S + timing.FORWARDS * 30)
    run = RunArgs(seed=3)
    records = [Record("fps", name, "x", False, {}, {}, {"seed": seed}, measured={"wall_s": [s, s], "batch": 1})
               for name, seed, s in (("a", 3, 2.0), ("b", 3, 5.0), ("b", 2, 50.0))]
    assert timing._rate(records, run, slow) == 0.5


def test_what_is_timed_already_is_not_timed_again():
    found, first = timed()
    again, second = timed(done=found.run)
    assert again.rows == found.rows and (first.written > 0, second.written) == (True, 0)


def test_times_are_drawn_and_come_back_from_a_folder(tmp_path):
    found, _ = timed()
    assert [len(panel.series[0].x) for panel in found.plot.panels] == [6, 6] and found.plot.scatter
    write_study(found, tmp_path)
    again = read_study(tmp_path, found.run, MAKERS)
    assert again.rows == found.rows and (tmp_path / "variants.png").exists()
    [header, *lines] = (tmp_path / "variants.csv").read_text().splitlines()
    assert "median_s" in header and "pareto_timed" in header and len(lines) == 6
    untimed = measure_variants(a_plan("efficient"), BACKBONES[:2], ("minilm",), exact=made_up)
    assert [panel.y_label for panel in untimed.plot.panels] == ["matmul and conv FLOPs"]


def test_published_numbers_that_do_not_hold_are_named():
    found = measure_variants(a_plan("efficient"), ("segformer_mit_b0",), ("tite",), exact=made_up)
    assert "segformer_mit_b0 3.7 M for 20 M" in found.tables[1].feet[1] and "tite 1 M for" in found.tables[1].feet[1]


# The command ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_times_what_its_budget_reaches(capsys, tmp_path):
    typed = ("--backbone", "mobilevit_xxs", "--text-encoder", "tinybert", "--arch", "efficient", "--workload", "tiny", "--budget", "5")
    code = cli.main(["variants", *typed, "--threads", "1", "--csv", str(tmp_path / "v.csv"), "--records", str(tmp_path / "r.jsonl")])
    shown, said = capsys.readouterr()
    assert code == 0, said
    [row] = csv.DictReader(io.StringIO((tmp_path / "v.csv").read_text().split("\n\n")[0]))
    assert float(row["median_s"]) > 0 and float(row["time_ratio"]) == 1
    assert "1 of 1 variants were timed" in shown


def test_the_command_counts_one_variant(in_process, capsys):
    typed = ("--no-time", "--backbone", "mobilevit_xxs", "--text-encoder", "tinybert", "--arch", "efficient", "--workload", "tiny")
    assert cli.main(["variants", *typed, "--csv", "-", "--quiet"]) == 0
    table = capsys.readouterr().out.split("\n\n")[0]
    [row] = csv.DictReader(io.StringIO(table))
    assert (row["backbone"], row["text_encoder"], row["transformer"], row["pareto"]) == ("mobilevit_xxs", "tinybert", "efficient", "front")
    assert int(row["parameters"]) > 924_784 + 14_350_248 and int(row["peak_bytes"]) > 0


@pytest.mark.parametrize(("typed", "says"), [
    (("--budget", "0"), "--budget is 0; it must be a number of seconds above 0"),
    (("--no-time", "--plot", "x.txt"), "--plot is 'x.txt'; it must end in .png or .svg"),
    (("--no-time", "--backbone", "vgg"), "--backbone is 'vgg'; choose from swin_T_224_1k"),
    (("--no-time", "--text-encoder", "albert", "--text-encoder", "albert"), "--text-encoder names albert twice"),
    (("--no-time", "--most", "0"), "--most is 0; it must be a number of million parameters above 0"),
    (("--no-time", "--feature-sizes", "5x5"), "the whole model makes its own maps"),
])
def test_what_cannot_be_asked_is_one_sentence(capsys, typed, says):
    assert cli.main(["variants", *typed]) == 2
    assert says in capsys.readouterr().err


def test_variants_need_a_whole_model():
    with pytest.raises(UsageError, match="variants are of the whole model"):
        points_of(dataclasses.replace(a_plan("efficient"), workload=Workload.tiny()), (), ())
