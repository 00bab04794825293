"""`--whole`: what is typed becomes a workload of the whole model, or one sentence; its records and tables say what was measured."""

from __future__ import annotations

import csv
import io

import pytest

from humar_bench import cli
from humar_bench.args import Workload
from humar_bench.errors import UsageError
from humar_bench.options import Selection, Whole
from humar_bench.records.record import load
from humar_bench.report.comparison import compare
from humar_bench.running.plan import resolve


def work(whole: Whole | None = None, **typed):
    return resolve(Selection(**typed), whole=whole or Whole(whole=True)).workload


def test_the_whole_model_takes_the_image_of_the_workload():
    workload = work()
    assert (workload.name, workload.image_size, workload.padded_size) == ("uniphd", (480, 640), (480, 640))
    assert workload.feature_sizes == ((60, 80), (30, 40), (15, 20), (8, 10))
    assert (workload.backbone, workload.text_encoder, workload.prompt, workload.masks) == ("swin_T_224_1k", "roberta", "text", "all")


def test_what_is_typed_is_what_is_measured():
    whole = Whole(whole=True, backbone="mobilevit_s", text_encoder="minilm", prompt="point", caption_tokens=20, masks="best")
    workload = work(whole, image_size="100x150", batch=3, num_queries=7, padded=True)
    assert (workload.backbone, workload.text_encoder, workload.prompt) == ("mobilevit_s", "minilm", "point")
    assert (workload.caption_tokens, workload.masks, workload.batch, workload.num_queries, workload.padded) == (20, "best", 3, 7, True)
    assert (workload.name, workload.padded_size, workload.feature_sizes[0]) == ("custom", (112, 160), (14, 20))
    assert workload.image_sizes == ((100, 150), (75, 90), (75, 90))


def test_levels_and_queries_agree_with_the_arguments():
    plan = resolve(Selection(set=("num_feature_levels=5",)), whole=Whole(whole=True))
    assert len(plan.workload.feature_sizes) == plan.args.num_feature_levels == 5
    tiny = resolve(Selection(workload="tiny"), whole=Whole(whole=True))
    assert (tiny.workload.name, tiny.workload.num_queries, tiny.args.num_queries) == ("tiny", 5, 5)


def test_without_whole_nothing_changes():
    assert type(work(Whole())) is Workload


@pytest.mark.parametrize(("typed", "says"), [
    ({"feature_sizes": "50x50"}, "--feature-sizes is 50x50 and the whole model makes its own maps"),
    ({"workload": "speed-test"}, "workload is 'speed-test' and the whole model takes images"),
    ({"set": ("num_feature_levels=2",)}, "num_feature_levels is 2; the whole model has at least 3"),
])
def test_what_does_not_fit_is_one_sentence(typed, says):
    with pytest.raises(UsageError, match=says):
        work(**typed)


def test_parts_of_the_whole_model_ask_for_it():
    with pytest.raises(UsageError, match="text-encoder is 'minilm' and only the whole model has one; add --whole"):
        Whole(text_encoder="minilm")


def test_parameters_from_the_command_line(capsys, tmp_path):
    typed = ("--whole", "--backbone", "mobilevit_xxs", "--text-encoder", "tinybert", "--workload", "tiny", "--arch", "efficient")
    code = cli.main(["params", *typed, "--csv", "-", "--records", str(tmp_path / "records.jsonl"), "--quiet"])
    rows = {row["component"]: int(row["efficient"]) for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert code == 0
    assert (rows["backbone"], rows["text encoder"]) == (924_784, 14_350_248)
    assert rows["total"] == sum(each for name, each in rows.items() if name != "total")
    run = load(tmp_path)
    assert run[0].workload["subject"] == "uniphd" and run[0].built["num_queries"] == 5
    assert run[0].measured["never_read"] is not None
    said = compare(run).conditions[0]
    assert "The whole model: images 64x96, backbone mobilevit_xxs, text encoder tinybert, prompt text of 12 tokens, masks all." in said


def test_pictures_are_timed_as_the_model_is(capsys):
    assert cli.main(["fps", "--whole", "--end-to-end", "--backend", "compile"]) == 2
    assert "backend is compile and --end-to-end was given; it runs the model as it is" in capsys.readouterr().err


def test_times_and_components_from_the_command_line(in_process, capsys, tmp_path):
    typed = ("--whole", "--backbone", "mobilevit_xxs", "--text-encoder", "tinybert", "--workload", "tiny", "--batch", "1")
    few = ("--processes", "1", "--budget", "0.2", "--min-runs", "1", "--max-runs", "2", "--threads", "1", "--device", "cpu")
    code = cli.main(["fps", *typed, *few, "--by-component", "--arch", "efficient", "--records", str(tmp_path / "r.jsonl"), "--quiet"])
    assert code == 0, capsys.readouterr().err
    run = load(tmp_path / "r.jsonl")
    parts = {name for record in run.select(measure="component_time") for name in record.measured["components"]}
    assert {"backbone", "text encoder", "prompt", "fusion", "projection", "heads", "mask head", "transformer: encoder"} <= parts
