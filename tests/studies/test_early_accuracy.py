"""`ablate --accuracy`: which rows are trained and how, what is said of them, going on, proving. Runs are made up (`made_up_study`)."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from humar_bench.args import ModelArgs, RunArgs, Workload
from humar_bench.cli import main
from humar_bench.errors import EXIT_DONE, EXIT_USAGE, UsageError
from humar_bench.judging.early import LESS
from humar_bench.judging.statistics import UNDECIDED
from humar_bench.records.record import load
from humar_bench.records.writer import RecordWriter
from humar_bench.report.study import read_study, study_csv, study_markdown, study_texts, write_study
from humar_bench.running.costs import exact_records
from humar_bench.running.plan import Plan
from humar_bench.saved.verify import verify
from humar_bench.studies import MAKERS, ablate, files_of, switches
from humar_bench.studies.ablate import Ablation, measure_ablation
from humar_bench.studies.accuracy import accuracy as trainings
from humar_bench.studies.accuracy.kept import PLACES
from humar_bench.studies.accuracy.made_up import World
from humar_bench.studies.accuracy.plan import RATE, RUN, Asked
from humar_bench.studies.accuracy.presets import PRESETS
from humar_bench.studies.early_accuracy import changes_in, in_small, plan_of_rows
from humar_bench.studies.switches import DEFAULT, switches_of
from humar_bench.subjects.registry import Architecture, build
from humar_bench.training.train_args import SMALL_MODEL
from tests.faults.harness import in_this_process
from tests.studies.made_up_study import Made, train_here
from tests.studies.test_ablate import exact

ASKED = Asked(arch=(), seeds=2, pictures=400, evaluation_pictures=200, rates=(2.5e-4, 5e-4, 1e-3), warm=0)
USUAL = ModelArgs()
TINY = {"hidden_dim": 32, "dec_layers": 2, "efficient_enc_layers": 2, "num_queries": 5}
CLIMBING = World(spread=0.004, accuracy=0.4, rate=1.0)


def early_plan(args: ModelArgs = USUAL, **asked):
    made = plan_of_rows(switches_of(args), args, PRESETS["cpu"], dataclasses.replace(ASKED, **asked))
    return dataclasses.replace(made, draws=40)


def ablation(made: Made, folder, args: ModelArgs = USUAL, exact=exact, work: Workload | None = None, **more) -> Ablation:
    work = work or Workload.uniphd(1)
    plan = Plan((Architecture("efficient", "efficient", False),), "efficient", args, work, RunArgs(device="cpu"))
    train = lambda *given, **rest: trainings.measure_accuracy(*given, **rest, children=made.children, now=made.now)  # noqa: E731
    return measure_ablation(plan, timed=False, exact=exact, accuracy=early_plan(args), folder=folder, train=train, **more)


@pytest.fixture
def few_rows(monkeypatch):
    """The default and one switch, so that they can be counted for real."""
    few = switches.switches_of
    for module in (ablate, switches, sys.modules[__name__]):
        monkeypatch.setattr(module, "switches_of", lambda args: few(args)[:2])


def climbing(**more) -> Made:
    return Made(world=CLIMBING, front_end=lambda options: "", **more)


# Which rows


def test_every_row_is_trained_as_the_small_model_can_have_it():
    plan = early_plan()
    rows = switches_of(ModelArgs())
    assert [arm.name for arm in plan.arms] == [row.name for row in rows] and plan.reference.name == DEFAULT
    specs = {arm.name: arm.architecture.spec.partition(":")[2] for arm in plan.arms}
    assert specs["decoder_sets 6"] == "efficient_decoder_sets__3" and specs["encoder_sets 4"] == "efficient_encoder_sets__2"
    assert specs["untied"] == "efficient_encoder_sets__2__and__efficient_decoder_sets__3"
    assert specs["graph_bias off"] == "efficient_graph_bias__false" and specs["memory_stride 4"] == "efficient_memory_stride__4"
    for arm in plan.arms:
        build(arm.architecture, plan.base.model, device="meta")


def test_rows_start_from_the_design_that_is_asked():
    args = ModelArgs(efficient_sample_heads=4, efficient_graph_bias=False)
    small = in_small(args, SMALL_MODEL)
    assert small == dataclasses.replace(SMALL_MODEL, efficient_sample_heads=4, efficient_graph_bias=False)
    rows = {row.name: changes_in(row, args, small) for row in switches_of(args)}
    assert rows["graph_bias on"] == {"efficient_graph_bias": True} and rows["sample_heads 1"] == {"efficient_sample_heads": 1}
    with pytest.raises(UsageError, match="--accuracy trains a small model of width 64, and there efficient_nheads 24 does not divide"):
        in_small(ModelArgs(hidden_dim=96, efficient_nheads=24), SMALL_MODEL)


def test_a_row_that_the_small_model_does_not_have_is_left_out():
    args = ModelArgs(efficient_enc_layers=3, efficient_encoder_sets=2)
    small = dataclasses.replace(SMALL_MODEL, efficient_enc_layers=1, efficient_encoder_sets=1)
    row = next(row for row in switches_of(args) if row.name == "encoder_sets 3")
    assert changes_in(row, args, small) is None


# What comes of it


def test_accuracy_stands_beside_cost_and_both_are_against_the_default(tmp_path):
    off = next(arm.architecture.spec for arm in early_plan().arms if arm.name == "point_samples off")
    study = ablation(made := climbing(retention={off: 0.6}), tmp_path)
    rows = {row["switch"]: row for row in study.rows}
    worse = rows["point_samples off"]
    assert worse["ap_verdict"] == LESS and worse["ap_ratio"] == pytest.approx(0.6, abs=0.04) and worse["ap_ratio_high"] < 0.75
    assert worse["ap_low"] < worse["ap"] < worse["ap_high"] and worse["matmul_flops_ratio"] > 1
    others = [row["ap_verdict"] for name, row in rows.items() if name not in (DEFAULT, "point_samples off")]
    assert set(others) == {UNDECIDED} and rows[DEFAULT]["ap_ratio"] is None and rows[DEFAULT]["ap_runs"] == 4
    assert rows["untied"]["trained_as"] == "efficient_encoder_sets=2, efficient_decoder_sets=3"
    text = study_markdown(study)
    assert "Each design switch alone: early accuracy on small models, procedural:0" in text and "untied as efficient_encoder_sets=2" in text
    assert study_csv(study).splitlines()[0].endswith("ap_runs,ap,ap_low,ap_high,ap_ratio,ap_ratio_low,ap_ratio_high,ap_verdict")
    assert {each["options"]["arch"] for each in made.asked if each["role"] == RATE} == {"efficient"}
    rates = {each["options"]["optim"]["lr"] for each in made.asked if each["role"] == RUN}
    assert rates == {5e-4} and sum(each["role"] == RUN for each in made.asked) == 2 * (len(rows) + 1)


def test_the_folder_is_proved_made_again_and_gone_on_with(in_process, tmp_path, few_rows):
    real = {"args": ModelArgs(**TINY), "exact": exact_records, "work": Workload.tiny(1)}
    with RecordWriter(tmp_path / "records.jsonl") as sink:
        first = ablation(climbing(cost_s=10.0), tmp_path, sink=sink, time_limit_s=80.0, **real)
        assert first.trained.missing and f"{first.trained.missing} runs are missing" in study_markdown(first)
        found = ablation(again := climbing(), tmp_path, sink=sink, done=load(tmp_path), **real)
    assert sum(each["role"] == RUN for each in again.asked) == first.trained.missing
    write_study(found, tmp_path)
    assert verify(tmp_path).proved and {each.name for each in tmp_path.iterdir()} <= {
        "records.jsonl", ablate.RUNS_TABLE, *PLACES, *files_of("ablate"),
    }
    assert study_texts(read_study(tmp_path, load(tmp_path), MAKERS)) == study_texts(found)
    page = tmp_path / "ablation.csv"
    page.write_text(page.read_text().replace(UNDECIDED, LESS, 1))
    assert not verify(tmp_path).proved


def test_a_run_that_fails_costs_its_own_row(tmp_path):
    off = next(arm.architecture.spec for arm in early_plan().arms if arm.name == "graph_bias off")
    found = ablation(climbing(fails=lambda options: ("crash", "it crashed.") if options.arch == off else None), tmp_path)
    rows = {row["switch"]: row for row in found.rows}
    assert "ap" not in rows["graph_bias off"] and rows["value_conv off"]["ap_runs"] == 2
    assert found.failures and all(each == "training of graph_bias off failed: it crashed." for each in found.failures)


# The command


@pytest.mark.parametrize(("typed", "said"), [
    (("--pictures", "800"), "--pictures is 800 and nothing is trained; add --accuracy."),
    (("--accuracy", "--seeds", "1"), "--seeds is 1; it must be from 2 to 1000"),
    (("--accuracy", "--preset", "refhuman"), "--preset is 'refhuman'; choose cpu or gpu."),
    (("--accuracy", "--time-limit", "0"), "--time-limit is 0"),
    (("--accuracy", "--set", "hidden_dim=96", "--set", "efficient_nheads=24"), "trains a small model of width 64"),
])
def test_what_cannot_be_is_one_sentence(typed, said, capsys):
    assert main(["ablate", *typed]) == EXIT_USAGE
    captured = capsys.readouterr()
    assert said in " ".join(captured.err.split()) and captured.out == ""


def test_the_command_counts_trains_and_writes(in_process, tmp_path, monkeypatch, capsys, few_rows):
    made, real = climbing(), trainings.measure_accuracy
    monkeypatch.setattr(ablate.measure_ablation, "__kwdefaults__", {
        **ablate.measure_ablation.__kwdefaults__,
        "train": lambda *given, **rest: real(*given, **rest, children=made.children, now=made.now),
    })
    sets = [part for name, value in TINY.items() if name != "num_queries" for part in ("--set", f"{name}={value}")]
    typed = ["ablate", "--accuracy", "--no-time", "--workload", "tiny", *sets, "--pictures", "200", "--val", "60", "--warm", "0", "-o",
             str(tmp_path / "out")]
    assert main(typed) == EXIT_DONE
    assert "AP, x default" in capsys.readouterr().out and verify(tmp_path / "out").proved
    (tmp_path / "mine" / "runs").mkdir(parents=True)
    assert main([*typed[:-1], str(tmp_path / "mine")]) == EXIT_USAGE
    assert "already holds runs" in capsys.readouterr().err


@pytest.mark.slow
def test_rows_are_trained_for_real(in_process, tmp_path, monkeypatch, few_rows, capsys):
    train_here(monkeypatch, ablate.measure_ablation, "train", lambda *given, **rest: trainings.measure_accuracy(
        *given, **rest, children=in_this_process))
    sets = [part for name, value in TINY.items() if name != "num_queries" for part in ("--set", f"{name}={value}")]
    typed = ["ablate", "--accuracy", "--no-time", "--workload", "tiny", *sets, "--size", "64", "--pictures", "64", "--val", "24"]
    assert main([*typed, "--warm", "80", "-o", str(tmp_path / "out")]) == EXIT_DONE
    assert verify(tmp_path / "out").proved and not (tmp_path / "out" / "rendered").exists()
    trained = load(tmp_path / "out").select(measure="training")
    assert all(each.ok for each in trained) and {each.asked["hidden_dim"] for each in trained} == {SMALL_MODEL.hidden_dim}
