"""`humar-bench train`, `warm-start`, `evaluate`: what they print where, what they leave, how they end."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from humar_bench import cli
from humar_bench.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE
from humar_bench.training import warm_start
from humar_bench.training.warm_start import WarmStart

SMALL = (
    "--pictures", "8", "--size", "64", "--batch-size", "2", "--threads", "1", "--set", "hidden_dim=32", "--set", "enc_layers=1", "--set",
    "dec_layers=2", "--set", "efficient_enc_layers=1", "--set", "log_every=1",
)


def ends(capsys, *argv: str) -> tuple[int, str, str]:
    code = cli.main(list(argv))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def run(capsys, tmp_path):
    folder = str(tmp_path / "run")
    return folder, ends(capsys, "train", "--arch", "efficient", "-o", folder, "--evaluate-every", "4", "--evaluation-pictures", "3", *SMALL)


def test_a_run_is_trained_evaluated_and_gone_on_with(capsys, run):
    folder, (code, out, err) = run
    assert code == EXIT_DONE and out.endswith(f"{folder}: evaluate it with humar-bench evaluate {folder}.\n")
    rows = [line.split() for line in out.partition("Evaluations, ")[2].splitlines()]
    assert [row[:2] for row in rows if len(row) == 8] == [["2", "4"], ["4", "8"]]
    assert "mean OKS" in out and "total loss of a batch" in out
    assert err.count("humar-bench: after ") == 2
    with open(f"{folder}/curve.png", "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"

    code, out, err = ends(capsys, "evaluate", folder, "--resamples", "10", "--json", "-")
    assert (code, err) == (EXIT_DONE, "")
    assert json.loads(out)["entries"] == 3 and json.loads(out)["metrics"]["best/AP"]["value"] >= 0
    code, out, _ = ends(capsys, "evaluate", folder, "--pictures", "2", "--resamples", "0", "--csv", "-")
    assert code == EXIT_DONE and out.startswith("metric,value,low,high\nAP,") and "left_ankle" in out
    assert "3 entries" not in ends(capsys, "evaluate", folder, "--pictures", "2", "--resamples", "0")[1]

    code, out, _ = ends(capsys, "train", "--resume", folder)
    assert code == EXIT_DONE and folder in out
    assert ends(capsys, "train", "-o", folder, *SMALL)[0] == EXIT_USAGE


def test_quiet_is_quiet(capsys, tmp_path):
    assert ends(capsys, "train", "-q", "-o", str(tmp_path / "run"), "--evaluation-pictures", "2", *SMALL) == (EXIT_DONE, "", "")


def test_a_front_end_is_made_and_used(capsys, tmp_path):
    front = str(tmp_path / "front.safetensors")
    code, out, err = ends(capsys, "warm-start", "-o", front, *SMALL)
    assert (code, err) == (EXIT_DONE, "") and out.startswith(f"{front}: 8 pictures, OKS of the best cells ")
    code, *_ = ends(capsys, "train", "-q", "-o", str(tmp_path / "run"), "--front-end", front, "--evaluation-pictures", "2", *SMALL)
    assert code == EXIT_DONE


def test_a_warm_start_learns_as_it_is_told(capsys, tmp_path, monkeypatch):
    """By an optimiser of its own, of which every option can be said."""
    took = []
    made = WarmStart(tmp_path / "front.safetensors", 8, 1.0, 0.1)
    monkeypatch.setattr(warm_start, "warm_start", lambda options, path, *, optim, tell: took.append(optim) or made)
    told = ("--lr", "2e-3", "--batch-size", "4", "--set", "weight_decay=0.5")
    for argv in ((), told):
        assert ends(capsys, "warm-start", "-o", str(made.path), "--pictures", "8", *argv)[0] == EXIT_DONE
    assert took[0] == warm_start.WARM_OPTIM
    assert took[1] == dataclasses.replace(warm_start.WARM_OPTIM.with_lr(2e-3), batch_size=4, weight_decay=0.5)


def test_divergence_ends_with_1(capsys, tmp_path):
    argv = ("train", "-q", "-o", str(tmp_path / "run"), *SMALL, "--lr", "1e9", "--set", "clip_max_norm=0", "--set", "warmup_steps=0")
    code, out, err = ends(capsys, *argv)
    assert (code, out) == (EXIT_FAILED, "") and err.count("\n") == 1 and "not finite" in err


@pytest.mark.parametrize(("argv", "sentence"), [
    (("train",), "-o is missing; name a folder for the run, or go on with one by --resume."),
    (("train", "--resume", "nowhere"), "nowhere/run.json cannot be read: No such file or directory; name a folder that train wrote."),
    (("train", "-o", "run", "--arch", "other"), "the architecture 'other' is unknown"),
    (("train", "-o", "run", "--preset", "huge"), "the preset is 'huge'; choose one of published, small."),
    (("train", "-o", "run", "--data", "nowhere"), "the data is 'nowhere', which is no folder"),
    (("train", "-o", "run", "--lr", "fast"), "--lr is 'fast'; it must be a number."),
    (("train", "-o", "run", "--set", "lrr=1"), "--set lrr: training has no option 'lrr'; did you mean lr"),
    (("train", "-o", "run", "--pictures", "3"), "a step takes 8"),
    (("evaluate", "nowhere"), "--data is missing; name what nowhere is to be evaluated on."),
    (("evaluate", "nowhere", "--data", "procedural:0"), "the checkpoint nowhere does not exist"),
    (("evaluate", ".", "--prompt", "song"), "prompt is 'song'; choose one of text, scribble, point."),
    (("evaluate", "."), "run.json cannot be read"),
    (("evaluate", ""), "RUN|CHECKPOINT is ''; name a path"),
    (("warm-start", "-o", "-"), "--out is -, and standard output cannot take it; name a file"),
    (("warm-start", "-o", "no/folder/a"), "--out 'no/folder/a' cannot be written"),
])
def test_what_cannot_be_is_one_sentence(capsys, monkeypatch, tmp_path, argv, sentence):
    monkeypatch.chdir(tmp_path)
    code, out, err = ends(capsys, *argv)
    assert (code, out) == (EXIT_USAGE, "") and err.startswith("humar-bench: ") and sentence in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_resume_takes_its_options_from_the_run(capsys, run):
    folder, _ = run
    code, _, err = ends(capsys, "train", "--resume", folder, "--lr", "0.1")
    assert code == EXIT_USAGE and err == f"humar-bench: --resume goes on with the options of {folder}; leave --lr out.\n"


@pytest.mark.parametrize("name", ["train", "warm-start", "evaluate"])
def test_help_needs_no_torch(name):
    code = f"import sys; from humar_bench.cli import main; main(['{name}', '--help']); sys.exit(7 * ('torch' in sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert told.returncode == 0 and "Example:" in told.stdout, told.stderr


def test_a_run_that_is_evaluated_is_not_written_over(capsys, run):
    folder, _ = run
    path = f"{folder}/run.json"
    with open(path, "rb") as file:
        before = file.read()
    code, _, err = ends(capsys, "evaluate", folder, "--csv", path)
    assert code == EXIT_USAGE and "is a file of the run" in err
    with open(path, "rb") as file:
        assert file.read() == before
    for options, sentence in ((("--threads", "100000"), "threads is 100000; it must be at most"), (("--device", "tpu"), "device is 'tpu'")):
        code, _, err = ends(capsys, "evaluate", folder, *options)
        assert code == EXIT_USAGE and sentence in err
