"""Architectures with parts of their own around them: what is typed, what is built, what its records and tables say."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from humar_bench import cli
from humar_bench.args import ModelArgs, RunArgs, WholeWorkload, Workload
from humar_bench.errors import UsageError
from humar_bench.options import Selection, Whole
from humar_bench.report.comparison import compare
from humar_bench.running.bench import benchmark
from humar_bench.running.plan import resolve
from humar_bench.subjects.registry import load_builder, parse_architecture
from humar_bench.subjects.subject import subject_of
from humar_bench.subjects.uniphd import OnePassAQuery

ARGS = ModelArgs(
    hidden_dim=32, nheads=4, dim_feedforward=48, enc_layers=1, dec_layers=2, num_queries=4, num_body_points=6, efficient_nheads=2,
    efficient_enc_layers=2,
)
WORK = WholeWorkload(backbone="mobilevit_xxs", text_encoder="tinybert", image_size=(60, 90), num_queries=4, batch=2, padded=True)


@pytest.mark.parametrize(("text", "name", "spec", "settings"), [
    ("ours=efficient[masks=best]", "ours", "efficient[masks=best]", {"masks": "best"}),
    ("original[ text_encoder = minilm , backbone=mobilevit_s]", "original[text_encoder=minilm,backbone=mobilevit_s]",
     "original[text_encoder=minilm,backbone=mobilevit_s]", {"text_encoder": "minilm", "backbone": "mobilevit_s"}),
    ("mine=a[1]/model.py:build[masks=none]", "mine", "a[1]/model.py:build[masks=none]", {"masks": "none"}),
    ("mine=a[1]/model.py:build", "mine", "a[1]/model.py:build", {}),
])
def test_parts_of_its_own_stand_in_brackets(text, name, spec, settings):
    found = parse_architecture(text)
    assert (found.name, found.spec, found.settings) == (name, spec, settings)
    assert parse_architecture(f"again={found.spec}").settings == settings


@pytest.mark.parametrize("inside", ["", "masks", "mask=best", "masks=best,masks=all", "enc_layers=3", "masks=best=all"])
def test_brackets_that_hold_anything_else_are_one_sentence(inside):
    with pytest.raises(UsageError, match="in its brackets; write each of backbone, text_encoder, masks at most once"):
        parse_architecture(f"efficient[{inside}]")


def test_parts_that_cannot_be_are_refused_before_anything_runs():
    with pytest.raises(UsageError, match="efficient.masks=best. sets masks, and only the whole model has one; add --whole"):
        resolve(Selection(arch=("efficient[masks=best]",)))
    with pytest.raises(UsageError, match="ours: masks is 'some'; choose one of all, best, none, looped"):
        resolve(Selection(arch=("ours=efficient[masks=some]",)), whole=Whole(whole=True))
    with pytest.raises(UsageError, match="sets masks"):
        benchmark(["efficient[masks=best]"], ARGS, Workload.tiny(), measures=["params"])


def test_a_builder_is_found_without_the_brackets():
    assert load_builder("efficient[masks=best]") is load_builder("efficient")


def outputs_of(text):
    subject = subject_of(ARGS, WORK)
    each = parse_architecture(text)
    model = subject.of(each).build(each, device="cpu", dtype=torch.float32, seed=0)
    with torch.inference_mode():
        outputs = model(*subject.inputs(device="cpu", dtype=torch.float32, seed=0))
    subject.of(each).check(outputs, name=text)
    return model, outputs


def test_each_architecture_makes_its_own_masks_on_the_same_inputs():
    made = {masks: outputs_of(f"efficient[masks={masks}]")[1] for masks in ("all", "best", "none", "looped")}
    assert torch.equal(made["looped"].pred_logits, made["all"].pred_logits)
    torch.testing.assert_close(made["looped"].pred_masks, made["all"].pred_masks, rtol=1e-4, atol=1e-4 * made["all"].pred_masks.abs().max())
    row = made["best"].mask_queries
    assert made["best"].pred_masks.shape[1] == 1 and made["none"].pred_masks is None
    expected = made["all"].pred_masks.gather(1, row[..., None, None].expand_as(made["best"].pred_masks))
    torch.testing.assert_close(made["best"].pred_masks, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())


def test_one_pass_a_query_makes_one_pass_a_query():
    model, _ = outputs_of("original[masks=looped]")
    assert isinstance(model.mask_refine, OnePassAQuery)
    passes = []
    model.mask_refine.head.register_forward_hook(lambda module, given, made: passes.append(made.shape[1]))
    with torch.inference_mode():
        model(*subject_of(ARGS, WORK).inputs(device="cpu", dtype=torch.float32, seed=0))
    assert passes == [1] * WORK.num_queries


def test_backbone_and_text_encoder_are_its_own_too():
    model, _ = outputs_of("efficient[backbone=segformer_mit_b0,text_encoder=minilm]")
    assert model.backbone[0].channels == (32, 64, 160, 256) and model.text_encoder.width == 384


@pytest.mark.parametrize("measures", [["params", "fps"], pytest.param(["params", "memory"], marks=pytest.mark.slow)])
def test_records_and_tables_say_what_each_architecture_had(in_process, measures):
    texts = ["published=original[masks=looped]", "ours=efficient[masks=best,backbone=segformer_mit_b0]"]
    run = RunArgs(device="cpu", processes=1, budget=0.2, min_runs=1, max_runs=2, threads=1, control=False)
    found = benchmark(texts, ARGS, WORK, measures=measures, run=run)
    assert all(record.ok for record in found), [record.reason for record in found]
    assert {record.workload["masks"] for record in found} == {"all"} and len({record.key for record in found}) == len(found)
    comparison = compare(found, "published")
    assert comparison.architectures == ("published", "ours")
    said = "\n".join(comparison.conditions)
    assert "published: parts of its own: masks looped; " in said
    assert "ours: parts of its own: masks best, backbone segformer_mit_b0; " in said
    params = {record.architecture: record.measured["components"]["backbone"] for record in found.select(measure="params")}
    assert params == {"published": 924_784, "ours": 3_319_392}


def test_variants_go_through_all_parts_themselves(capsys):
    assert cli.main(["variants", "--no-time", "--arch", "efficient[masks=best]"]) == 2
    assert "variants go through all of them; leave out its brackets" in capsys.readouterr().err


def test_the_workload_says_which_value_is_wrong():
    with pytest.raises(UsageError, match="ours: backbone is 'resnet'; choose one of swin"):
        dataclasses.replace(WORK).own({"backbone": "resnet"}, "ours")
