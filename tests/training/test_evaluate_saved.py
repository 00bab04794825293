"""Evaluating what was trained or published: a run says again what its log says, a checkpoint knows how it was built."""

from __future__ import annotations

import argparse
import dataclasses

import pytest
import torch

from humar_bench.data.export import export_people
from humar_bench.data.people import ProceduralPeople
from humar_bench.errors import UsageError
from humar_bench.training.evaluate import LOGGED
from humar_bench.training.evaluate_saved import evaluate_saved
from humar_bench.training.loop import train
from humar_bench.training.options import LossArgs
from humar_bench.training.saved_model import load_run
from humar_bench.training.train_args import SMALL_WHOLE
from tests.tolerance import chained_terms, tolerance
from tests.training.small_runs import tiny

MASKED = dataclasses.replace(SMALL_WHOLE, no_mask=False, train_trigger=frozenset({"text", "point"}))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, train(tiny(whole=MASKED, loss=LossArgs(), evaluate_every=0), folder)


@pytest.fixture(scope="module")
def refhuman(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refhuman")
    export_people(folder, {"val": ProceduralPeople("val", 1, 0, 4, 64)})
    return folder


def test_a_run_is_evaluated_as_it_was_in_training(run):
    folder, summary = run
    found = evaluate_saved(folder, resamples=20, threads=1, device="cpu")
    assert {short: found.estimates[name].value for short, name in LOGGED.items()} == pytest.approx(summary.evaluation)
    assert found.entries == 5 and found.keypoints[0] == "nose" and found.prompt == "text"
    mean = found.estimates["best/mean OKS"]
    assert mean.low <= mean.value <= mean.high
    document = found.document()
    assert document["metrics"]["best/mean OKS"] == mean._asdict() and document["split"] == "val"
    told = " ".join(found.conditions)
    assert "5 entries of procedural:0" in told and "20 draws of 5 pictures" in told


def test_what_is_asked_for_is_what_is_evaluated(run):
    folder, _ = run
    changes = {"evaluation_pictures": 3, "evaluation_split": "test"}
    other = evaluate_saved(folder, data="procedural:1", prompt="point", masks=False, resamples=0, changes=changes)
    assert other.entries == 3 and "best/mIoU" not in other.estimates and "procedural:1, test, by point" in other.conditions[0]
    assert other.estimates["best/mean OKS"].low is None
    for asked, sentence in (
        (dict(prompt="scribble"), "prompt is scribble and the model was built for point text"),
        (dict(settings=["enc_layers=2"]), "a run knows, leave it out"),
    ):
        with pytest.raises(UsageError, match=sentence):
            evaluate_saved(folder, **asked)


def arguments_of(options) -> argparse.Namespace:
    """As the published training script keeps them: all fields in one namespace, prompts as words."""
    both = {**vars(options.model), **vars(options.whole)} | {"train_trigger": "text point", "lr": 1e-4, "efficient_transformer": True}
    return argparse.Namespace(**both)


def test_a_checkpoint_is_built_from_what_it_says_and_evaluated_on_refhuman(run, refhuman, tmp_path):
    folder, _ = run
    options, model = load_run(folder)
    torch.save({"model": model.state_dict(), "args": arguments_of(options), "epoch": 19}, tmp_path / "published.pth")
    found = evaluate_saved(tmp_path / "published.pth", data=str(refhuman), resamples=0)
    assert found.entries == 4 and found.options.arch == "efficient" and found.options.model == options.model
    straight = evaluate_saved(folder, data=str(refhuman), resamples=0, changes={"evaluation_batch": 1})
    rounding = tolerance(torch.float32, 1, chained_terms(model))  # one entry at a time is summed in another order
    assert found.statistics.values().tolist() == pytest.approx(straight.statistics.values().tolist(), rel=rounding, nan_ok=True)
    assert found.estimates["best/mIoU"].value is not None and found.estimates["segm/AP"].value is not None


def test_a_checkpoint_without_arguments_needs_them(run, refhuman, tmp_path):
    folder, _ = run
    options, model = load_run(folder)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    fields = {**vars(options.model), "backbone": "small_conv", "text_encoder_type": "tiny", "train_trigger": "text point"}
    settings = [f"{name}={value}" for name, value in fields.items()]
    found = evaluate_saved(tmp_path / "weights.pth", data=str(refhuman), arch="efficient", settings=settings, resamples=0, prompt="point")
    assert found.entries == 4
    with pytest.raises(UsageError, match="does not fit the model"):
        evaluate_saved(tmp_path / "weights.pth", data=str(refhuman), arch="original", settings=settings, resamples=0)
    with pytest.raises(UsageError, match="--data is missing"):
        evaluate_saved(tmp_path / "weights.pth")
    with pytest.raises(UsageError, match="does not exist"):
        evaluate_saved(tmp_path / "nowhere.pth", data=str(refhuman))


def test_a_run_without_a_checkpoint_says_so(tmp_path, run):
    folder, _ = run
    (tmp_path / "run.json").write_bytes((folder / "run.json").read_bytes())
    with pytest.raises(UsageError, match="has no checkpoint yet"):
        evaluate_saved(tmp_path)
