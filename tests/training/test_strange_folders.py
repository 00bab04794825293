"""A run folder or checkpoint may come from anybody: nothing in it runs, nothing outside it is written, what is odd is one sentence."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from humar_bench.args import UniphdArgs
from humar_bench.errors import MeasurementError, UsageError
from humar_bench.report.training import curve_plot, curve_table
from humar_bench.training.evaluate_saved import evaluate_saved
from humar_bench.training.loop import train
from humar_bench.training.run_folder import read_evaluation, read_log, read_options, read_tensors, write_atomically
from humar_bench.training.saved_model import load_run
from humar_bench.training.step import build_model, load_front_end
from tests.training.small_runs import tiny

EVIL = """
from efficient.transformer import build_efficient_conv_attention_transformer
import pathlib; pathlib.Path({mark!r}).write_text("it ran")
def build(args):
    return build_efficient_conv_attention_transformer(args)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(tiny(pictures=4, evaluate_every=0, evaluation_pictures=3), folder)
    return folder


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def changed(folder: Path, name: str, **values) -> None:
    """A field of run.json's options, or of another file, whose parts are divided by __."""
    content = json.loads((folder / name).read_bytes())
    for path, value in values.items():
        *parts, last = path.split("__")
        owner = content["options"] if name == "run.json" else content
        for part in parts:
            owner = owner[part]
        owner[last] = value
    (folder / name).write_text(json.dumps(content))


def weights_file(folder: Path) -> Path:
    return next(folder.glob("checkpoint-*.safetensors"))


# Code


@pytest.fixture
def foreign(run, tmp_path) -> tuple[str, Path]:
    """The run says that its architecture is a file that leaves a mark when it runs."""
    mark, file = tmp_path / "mark", tmp_path / "evil.py"
    file.write_text(EVIL.format(mark=str(mark)))
    changed(run, "run.json", arch=f"{file}:build")
    return f"{file}:build", mark


def test_an_architecture_that_a_folder_names_runs_only_where_the_user_names_it(run, foreign):
    arch, mark = foreign
    for use in (lambda: evaluate_saved(run, resamples=0), lambda: load_run(run)):
        with pytest.raises(UsageError, match="is code of its own and would run with your rights; where you trust it, add --arch /"):
            use()
    assert not mark.exists()
    assert evaluate_saved(run, arch=arch, resamples=0, threads=1, device="cpu").entries == 3 and mark.exists()


def test_a_teacher_s_architecture_runs_only_where_it_is_the_one_that_is_trained(run, foreign, tmp_path):
    arch, mark = foreign
    with pytest.raises(UsageError, match="is code of its own"):
        train(tiny(pictures=2, evaluation_pictures=2, teacher=str(run)), tmp_path / "student")
    assert not mark.exists() and not (tmp_path / "student").exists()
    train(tiny(arch, pictures=2, evaluation_pictures=2, teacher=str(run)), tmp_path / "student")


def test_a_run_of_our_own_is_built_as_it_was(run):
    with pytest.raises(UsageError, match="has the architecture 'efficient' and not 'original'; leave --arch out."):
        load_run(run, "original")


@pytest.mark.parametrize("named", ["{file}:build", "os:system", 5, ["original"], None])
def test_an_architecture_that_a_checkpoint_names_never_runs(run, foreign, tmp_path, named):
    arch, mark = foreign
    told = argparse.Namespace(transformer_type=arch if named == "{file}:build" else named)
    torch.save({"model": {"a": torch.zeros(1)}, "args": told}, tmp_path / "c.pth")
    with pytest.raises(UsageError, match="c.pth was built with the transformer .*, which is not built in; name one with --arch."):
        evaluate_saved(tmp_path / "c.pth", data="procedural:0")
    assert not mark.exists()


def test_a_checkpoint_without_masks_is_evaluated(run, tmp_path):
    options, model = load_run(run)
    told = argparse.Namespace(**{**vars(options.model), **vars(options.whole), "train_trigger": "text", "efficient_transformer": True})
    torch.save({"model": model.state_dict(), "args": told}, tmp_path / "c.pth")
    found = evaluate_saved(tmp_path / "c.pth", data="procedural:0", resamples=0, changes={"evaluation_pictures": 2, "size": 64})
    assert found.entries == 2


@pytest.mark.parametrize("field", ["train_trigger", "return_interm_indices"])
@pytest.mark.parametrize("value", [5, None, [[1]], "\x1b"])
def test_arguments_of_another_type_are_one_sentence(field, value):
    with pytest.raises(UsageError, match=f"{field} is "):
        UniphdArgs.of(argparse.Namespace(**{field: value}))


# What is read


@pytest.mark.parametrize(("name", "change", "sentence"), [
    ("checkpoint.json", {"step": -1}, "step is -1"), ("checkpoint.json", {"step": True}, "step is True"),
    ("checkpoint.json", {"file": "../other.safetensors"}, "file is '../other.safetensors' and step is 2"),
    ("checkpoint.json", {"log_bytes": -5}, "log_bytes is -5"), ("checkpoint.json", {"wall_s": "x"}, "wall_s is 'x'"),
    ("checkpoint.json", {"evaluation": 5}, "evaluation is 5"),
    ("checkpoint.json", {"schedule": {}}, "the schedule's base_lrs does not fit"),
    ("checkpoint.json", {"schedule__optimizer": 5}, "the schedule's optimizer does not fit"),
    ("checkpoint.json", {"schedule__lr_lambdas": []}, "the schedule's lr_lambdas does not fit"),
    ("checkpoint.json", {"schedule__last_epoch": "x"}, "the schedule's last_epoch does not fit"),
    ("checkpoint.json", {"log_bytes": 10**9}, "shorter than when its checkpoint was made"),
    ("run.json", {"data": 5}, "data is 5; it must be text"), ("run.json", {"model": []}, "these are no options|does not fit"),
    ("run.json", {"whole__train_trigger": 5}, "train_trigger is 5"),
    ("run.json", {"model__dim_feedforward": 1_048_576, "model__hidden_dim": 4096}, "holds another model"),
])
def test_a_changed_folder_is_one_sentence(run, name, change, sentence):
    changed(run, name, **change)
    with pytest.raises(UsageError, match=sentence) as refused:
        load_run(run)
        train(read_options(run), run, resume=True)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["run.json", "checkpoint.json", "log.jsonl", "weights", "evaluations/00000002.npz"])
def test_a_pipe_is_refused_and_not_waited_for(run, name):
    path = weights_file(run) if name == "weights" else run / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UsageError, match="a pipe"):
        load_run(run)
        read_evaluation(run, 2)
        train(read_options(run), run, resume=True)


@pytest.mark.parametrize(("line", "sentence"), [
    ('{"kind": "other"}', "a line of the kind 'other'"), ('{"kind": 5}', "a line of the kind 5"), ("[1]", "a line of the kind None"),
    ('{"kind": "step", "kind": "step"}', "gives the key 'kind' twice"), ('{"kind": "step"}', "it lacks step"),
    ('{"kind": "evaluation", "step": 1, "pictures": 1e308}', "pictures is 1e"),
    ('{"a": ' * 900, "line 2"), ("[" * 900 + "]" * 900, "nested"), ("9" * 5000, "5000 digits"),
])
def test_a_line_that_training_did_not_write_is_one_sentence(run, line, sentence):
    (run / "log.jsonl").write_text(f"{line}\n")
    with pytest.raises(UsageError, match=sentence):
        read_log(run)


def test_a_log_with_nothing_to_draw_draws_nothing():
    times = {"pictures": 1, "wall_s": 1.0, "cpu_s": 1.0}
    lines = [{"kind": "evaluation", "step": 1, **times, "ap": None, "oks": None}, {"kind": "step", "step": 1, **times, "losses": {}}]
    assert curve_plot("a", lines).panels == () and len(curve_table(lines).rows) == 1


@pytest.mark.parametrize("broken", [
    lambda path: path.write_bytes(b""), lambda path: path.write_bytes(path.read_bytes()[:300]),
    lambda path: path.write_bytes(b"PK\3\4" * 99),
    lambda path: np.savez(path, a=np.zeros(1)), lambda path: np.savez(path, picture=np.array([{}], object)),
])
def test_an_evaluation_that_is_none_is_one_sentence(run, broken):
    broken(run / "evaluations" / "00000002.npz")
    with pytest.raises(UsageError, match="cannot be read as an evaluation"):
        read_evaluation(run, 2)


def test_an_evaluation_that_would_fill_the_memory_is_refused(run, monkeypatch):
    monkeypatch.setattr("humar_bench.training.run_folder.MOST_EVALUATION", 1000)
    with pytest.raises(UsageError, match="its arrays are larger than 0 MiB, the most that is read"):
        read_evaluation(run, 2)


def test_weights_of_another_type_or_of_an_optimiser_of_another_run_are_refused(run):
    path, right = weights_file(run), load_file(weights_file(run))
    name = next(each for each in right if each.startswith("average."))
    moment = next(each for each in right if each.endswith("|exp_avg"))
    for change, sentence in (
        ({name: right[name].to(torch.int32)}, "it has .* of int32 instead of float32"),
        ({moment: torch.zeros(3)}, "the optimiser's exp_avg of .* does not fit"),
        ({"optimizer.nobody|exp_avg": torch.zeros(3)}, "the optimiser's exp_avg of nobody does not fit"),
        ({"averaged": torch.zeros(2)}, "averaged does not fit"),
    ):
        save_file({**right, **change}, path)
        with pytest.raises(UsageError, match=sentence):
            load_run(run)
            train(read_options(run), run, resume=True)


def test_a_front_end_of_another_type_is_refused(run, tmp_path):
    model = build_model(read_options(run))
    own = {each: value for each, value in model.state_dict().items() if each.split(".")[0] in ("backbone", "text_encoder")}
    save_file({each: value.to(torch.complex64) for each, value in own.items()}, tmp_path / "f.safetensors")
    with pytest.raises(UsageError, match="another model"):
        load_front_end(model, str(tmp_path / "f.safetensors"))
    with pytest.raises(UsageError, match="cannot be read: it is a device and only regular files are read"):
        read_tensors("/dev/zero")


# What is written


@pytest.mark.parametrize("name", ["log.jsonl", "checkpoint.json", "curve.png", "checkpoint-00000007.safetensors", "evaluations"])
def test_a_new_run_writes_over_nothing(tmp_path, name):
    folder = tmp_path / "mine"
    folder.mkdir()
    path = folder / name
    if name == "evaluations":
        path.mkdir()
        path /= "mine.txt"
    path.write_text("mine")
    with pytest.raises(UsageError, match=f"already holds {name}, which would be written over; name another folder"):
        train(tiny(pictures=2), folder)
    assert path.read_text() == "mine"


def test_files_of_the_user_s_stay_in_a_run_s_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    names = ("checkpoint-best.safetensors", "checkpoint-1.safetensors", "notes.txt")
    for name in names:
        (folder / name).write_text("mine")
    train(tiny(pictures=4, evaluation_pictures=2, checkpoint_every=1), folder)
    assert all((folder / name).read_text() == "mine" for name in names)
    assert len(list(folder.glob("checkpoint-0*.safetensors"))) == 1


@pytest.mark.parametrize("name", ["log.jsonl", "checkpoint.json", "curve.png", "run.json", "evaluations"])
def test_nothing_is_written_through_a_link_out_of_the_folder(run, tmp_path, name):
    (run / "curve.png").write_bytes(b"")
    mine = tmp_path / "mine"
    (run / name).rename(mine)
    (run / name).symlink_to(mine)
    before = mine.is_file() and mine.read_bytes()
    with pytest.raises(UsageError, match=f"{name} is a link, as train never writes it"):
        train(read_options(run), run, resume=True)
    assert before is False or mine.read_bytes() == before


def test_what_is_no_log_is_never_cut(run):
    changed(run, "checkpoint.json", log_bytes=0)
    (run / "log.jsonl").write_text("mine\n")
    with pytest.raises(UsageError, match="log.jsonl is no log of a training run: it begins with b'mine"):
        train(read_options(run), run, resume=True)
    assert (run / "log.jsonl").read_text() == "mine\n"


def test_a_file_is_replaced_and_a_link_beside_it_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".a.part").symlink_to(tmp_path / "mine")
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new" and (tmp_path / "mine").read_text() == "mine"
    assert {each.name for each in tmp_path.iterdir()} == {"a", "mine"}


def test_a_device_is_refused_and_not_replaced():
    master, slave = os.openpty()  # a device that nobody can replace, even where the line under test is wrong
    try:
        with pytest.raises(MeasurementError, match="it is a device"):
            write_atomically(Path(os.ttyname(slave)), b"new")
    finally:
        os.close(master)
        os.close(slave)
