"""The loop: a run that was killed and resumed is the run that was not; what goes wrong is one sentence and loses nothing."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil

import numpy as np
import pytest
import torch

from humar_bench.data.export import export_people
from humar_bench.data.people import ProceduralPeople
from humar_bench.errors import MeasurementError, UsageError
from humar_bench.training import run_folder
from humar_bench.training.evaluate import logged
from humar_bench.training.loop import train
from humar_bench.training.options import LossArgs
from humar_bench.training.run_folder import read_checkpoint, read_evaluation, read_log, read_options, read_state
from humar_bench.training.saved_model import load_run
from humar_bench.training.step import FRONT_END, build_model
from humar_bench.training.train_args import SMALL_WHOLE, TrainArgs
from tests.training.small_runs import Killed, alike, killed_at, tiny, without_times


def tensors_of(folder) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder, read_state(folder))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(options, folder, summary) of a run from end to end."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    options = tiny()
    return options, folder, train(options, folder)


def test_a_run_leaves_what_its_folder_promises(run):
    options, folder, summary = run
    lines = read_log(folder)
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert [line["pictures"] for line in lines if line["kind"] == "evaluation"] == [6, 12]
    assert all(np.isfinite(list(line["losses"].values())).all() and line["grad_norm"] > 0 for line in lines if line["kind"] == "step")
    assert read_options(folder) == options and json.loads((folder / "run.json").read_text())["environment"]["torch"] == torch.__version__
    assert read_state(folder)["step"] == summary.steps == 6 and summary.pictures == 12 and 0 < summary.cpu_s
    assert logged(read_evaluation(folder, 6)) == summary.evaluation == {name: lines[-1][name] for name in summary.evaluation}
    assert sorted(path.name for path in folder.glob("*.safetensors")) == ["checkpoint-00000006.safetensors"]


@pytest.mark.parametrize("step", [1, 3, 5])  # before the first checkpoint, after an evaluation that no checkpoint knows, between two
def test_a_killed_run_goes_on_as_if_it_had_not_been(run, tmp_path, step):
    options, folder, _ = run
    with pytest.raises(Killed):
        train(options, tmp_path / "cut", tell=killed_at(step))
    summary = train(options, tmp_path / "cut", resume=True)
    assert without_times(read_log(tmp_path / "cut")) == without_times(read_log(folder))
    one, other = tensors_of(folder), tensors_of(tmp_path / "cut")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert any(name.startswith("average.") for name in one) and any(name.endswith("|exp_avg_sq") for name in one)
    assert summary.steps == 6 and read_evaluation(tmp_path / "cut", 3).values().tolist() == pytest.approx(
        read_evaluation(folder, 3).values().tolist(), nan_ok=True, rel=0)


def test_a_run_may_leave_what_was_trained_ahead_as_it_is_and_logs_its_own_learning_rate(run, tmp_path):
    options, folder, _ = run
    optim = dataclasses.replace(options.optim, front_end_share=0.0, lr_backbone=1e-5)
    still = dataclasses.replace(options, optim=optim)
    with pytest.raises(Killed):
        train(still, tmp_path / "cut", tell=killed_at(3))
    train(still, tmp_path / "cut", resume=True)
    rates = [[line["lr"] for line in read_log(each) if line["kind"] == "step"] for each in (folder, tmp_path / "cut")]
    assert rates[0] == rates[1] and max(rates[0]) > 1e-4
    left, begun = tensors_of(tmp_path / "cut"), build_model(still).state_dict()
    moved = {name.partition(".")[0] for name in begun if f"model.{name}" in left and not torch.equal(left[f"model.{name}"], begun[name])}
    assert not moved & {*FRONT_END} and "transformer" in moved


def test_a_kill_between_weights_and_checkpoint_leaves_the_one_before(run, tmp_path, monkeypatch):
    options, folder, _ = run
    write = run_folder.write_atomically

    def killed(path, content) -> None:
        if path.name == "checkpoint.json" and b'"step": 4' in content:
            raise Killed
        write(path, content)

    monkeypatch.setattr(run_folder, "write_atomically", killed)
    with pytest.raises(Killed):
        train(options, tmp_path / "cut")
    monkeypatch.undo()
    assert read_state(tmp_path / "cut")["step"] == 3 and (tmp_path / "cut" / "checkpoint-00000004.safetensors").exists()
    train(options, tmp_path / "cut", resume=True)
    assert without_times(read_log(tmp_path / "cut")) == without_times(read_log(folder))


def test_a_finished_run_is_not_trained_again(run):
    options, folder, before = run
    after = train(options, folder, resume=True, tell=killed_at(1))
    assert after.evaluation == before.evaluation
    with pytest.raises(UsageError, match="already holds a run; go on with --resume"):
        train(options, folder)
    with pytest.raises(UsageError, match=r"trained with another optim.lr, 0.0005 and not 0.001; ask for the same"):
        train(dataclasses.replace(options, optim=options.optim.with_lr(1e-3)), folder, resume=True)


def test_a_run_goes_on_with_as_many_processes_as_before(run, tmp_path):
    options, folder, _ = run
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.json"
    path.write_text(path.read_text().replace('"pictures": 12', '"pictures": 24'))
    with pytest.raises(UsageError, match="took 4 pictures and now takes 2; go on with as many processes"):
        train(options, tmp_path / "run", resume=True)


def test_the_saved_model_is_the_average(run):
    options, folder, _ = run
    told, model = load_run(folder)
    assert told == options and not model.training
    assert torch.equal(model.state_dict()["transformer.enc_output.weight"], tensors_of(folder)["average.transformer.enc_output.weight"])
    assert not torch.equal(model.state_dict()["transformer.enc_output.weight"], tensors_of(folder)["model.transformer.enc_output.weight"])


def test_dropout_of_a_step_depends_on_seed_and_step_alone(run, tmp_path):
    options, folder, _ = run
    torch.manual_seed(123)  # whatever was drawn before
    train(options, tmp_path / "again")
    assert without_times(read_log(tmp_path / "again")) == without_times(read_log(folder))
    train(dataclasses.replace(options, no_dropout=True), tmp_path / "none")
    assert read_log(tmp_path / "none")[0]["losses"] != read_log(folder)[0]["losses"]


def test_all_but_the_transformer_starts_alike_in_both_architectures():
    one, other = (build_model(tiny(arch)).state_dict() for arch in ("original", "efficient"))
    around = [name for name in one if not name.startswith("transformer.")]
    assert around and {name.partition(".")[0] for name in around} >= {*FRONT_END} - {"prompt_proj", "glob_prompt_proj"}
    assert around == [name for name in other if not name.startswith("transformer.")]
    assert all(torch.equal(one[name], other[name]) for name in around)
    reseeded = build_model(tiny(seed=1)).state_dict()
    assert not torch.equal(other["backbone.0.stem.conv.weight"], reseeded["backbone.0.stem.conv.weight"])
    assert not torch.equal(other["transformer.enc_output.weight"], reseeded["transformer.enc_output.weight"])


def test_accumulated_batches_are_one_larger_batch(tmp_path):
    large = alike(tiny(optim={"batch_size": 4}, evaluate_every=0))
    small = alike(tiny(optim={"batch_size": 2}, accumulate=2, evaluate_every=0))
    train(large, tmp_path / "large")
    train(small, tmp_path / "small")
    for one, other in zip(read_log(tmp_path / "large"), read_log(tmp_path / "small"), strict=True):
        if one["kind"] == "step":
            assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


def test_masks_and_every_prompt_are_trained(tmp_path):
    whole = dataclasses.replace(SMALL_WHOLE, no_mask=False, train_trigger=frozenset({"text", "point", "scribble"}))
    options = tiny(whole=whole, loss=LossArgs(), pictures=16, evaluate_every=0, optim={"use_ema": False})
    train(options, tmp_path / "run")
    log = read_log(tmp_path / "run")
    assert all(line["losses"]["loss_dice"] > 0 for line in log[:-1]) and log[-1]["oiou"] >= 0
    before, after = build_model(options).state_dict(), tensors_of(tmp_path / "run")
    for part in ("text_encoder.", "text_proj.", "prompt_proj.", "glob_prompt_proj.", "mask_refine.", "controller.", "transformer."):
        names = [name for name in before if name.startswith(part) and f"model.{name}" in after]
        assert any(not torch.equal(before[name], after[f"model.{name}"]) for name in names), part


def test_a_half_precision_run_trains(tmp_path):
    summary = train(tiny(dtype="bfloat16", evaluate_every=0), tmp_path / "run")
    assert summary.steps == 6 and np.isfinite(read_log(tmp_path / "run")[-2]["losses"]["total"])


def test_divergence_is_one_sentence_and_the_checkpoint_stays(tmp_path):
    options = tiny(optim={"lr": 1e9, "clip_max_norm": 0.0, "warmup_steps": 0}, pictures=40, checkpoint_every=1, evaluate_every=0)
    with pytest.raises(MeasurementError, match="not finite") as said:
        train(options, tmp_path / "run")
    assert "\n" not in str(said.value)
    assert read_state(tmp_path / "run")["step"] >= 1 and tensors_of(tmp_path / "run")


def test_a_full_disk_is_one_sentence_and_the_checkpoint_stays(run, tmp_path, monkeypatch):
    options, folder, _ = run
    replace = os.replace

    def full(source, target) -> None:
        if str(target).endswith("checkpoint-00000004.safetensors"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(run_folder.os, "replace", full)
    with pytest.raises(MeasurementError, match="could not be written: No space left on device; .* make room and go on with --resume"):
        train(options, tmp_path / "run")
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob(".*")) and read_state(tmp_path / "run")["step"] == 3
    train(options, tmp_path / "run", resume=True)
    assert without_times(read_log(tmp_path / "run")) == without_times(read_log(folder))


class DyingTokens:
    """A tokenizer whose process dies."""

    def __call__(self, captions):
        os._exit(9)


def test_a_dead_worker_is_one_sentence(tmp_path, monkeypatch):
    from humar_bench.training import loop

    monkeypatch.setattr(loop, "tokens_of", lambda options: DyingTokens())
    with pytest.raises(MeasurementError, match="a process that prepares pictures died .* go on with --resume"):
        train(tiny(workers=1), tmp_path / "run")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read_is_one_sentence(tmp_path, workers):
    people = tmp_path / "people"
    export_people(people, {split: ProceduralPeople(split, 0, 0, 4, 64) for split in ("train", "val")})
    for path in (people / "images").glob("train_*"):
        path.write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"^the picture .*train_00000\d.png cannot be read: [^\n]*$"):
        train(tiny(data=str(people), workers=workers), tmp_path / "run")


@pytest.mark.parametrize(("changes", "sentence"), [
    (dict(pictures=1), "there are 1 pictures and a step takes 2"),
    (dict(pictures=0), "procedural pictures have no end; say how many"),
    (dict(data="procedural:9"), "level"),
    (dict(data="nowhere"), "which is no folder"),
    (dict(front_end="nowhere.safetensors"), "nowhere.safetensors cannot be read: No such file"),
    (dict(backbone_weights="nowhere"), "nobody publishes weights of small_conv"),
    (dict(whole=dataclasses.replace(SMALL_WHOLE, text_encoder_type="tite"), text_weights="nowhere", tokenizer="nowhere"),
     "the tokenizer folder nowhere does not exist"),
    (dict(teacher="nowhere"), "nowhere/run.json cannot be read"),
    (dict(dtype="tf32"), "dtype is tf32, which CUDA devices have, and training runs on the CPU; choose float32 or bfloat16."),
    (dict(device="tpu"), "device is 'tpu'; choose one of auto, cpu, cuda"),
])
def test_what_cannot_be_trained_is_refused(tmp_path, changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        train(tiny(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_without_masks_cannot_train_them():
    with pytest.raises(UsageError, match="no mask head"):
        TrainArgs(whole=SMALL_WHOLE, loss=LossArgs(masks=True))
