"""What takes a minute: a real kill, two processes against one, the whole model on RefHuman's files, the published sizes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from humar_bench.args import UniphdArgs
from humar_bench.data.export import export_people
from humar_bench.data.people import ProceduralPeople
from humar_bench.training.evaluate_saved import evaluate_saved
from humar_bench.training.loop import train
from humar_bench.training.options import LossArgs, OptimArgs
from humar_bench.training.run_folder import as_json, read_log, read_state
from humar_bench.training.step import build_model
from humar_bench.training.train_args import TrainArgs
from tests.training.small_runs import TINY, alike, tiny, without_times

ROOT = Path(__file__).parents[2]
SAME_CURVE = 2e-3  # of the losses, two processes against one with batches twice as large: float32 sums in another order, over 12 steps
STARTED = """
import json, sys
from humar_bench.training.loop import train
from humar_bench.training.train_args import TrainArgs
train(TrainArgs.of_json(json.loads(open(sys.argv[1]).read())), sys.argv[2], resume=sys.argv[3] == "resume")
"""


def started(options: TrainArgs, folder: Path, resume: bool = False, *before: str) -> subprocess.Popen:
    """A process that trains."""
    file = folder.with_suffix(".json")
    file.write_bytes(as_json(options.to_json()))
    script = folder.with_suffix(".py")
    script.write_text(STARTED)
    command = [sys.executable, *(before or ("-P",)), str(script), str(file), str(folder), "resume" if resume else "start"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen) -> None:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said


@pytest.mark.slow
def test_kill_9_and_resume_is_the_run_that_was_not_killed(tmp_path):
    options = tiny(pictures=120, evaluate_every=40, checkpoint_every=3)
    ended(started(options, tmp_path / "whole"))
    process = started(options, tmp_path / "cut")
    while read_state(tmp_path / "cut") is None or read_state(tmp_path / "cut")["step"] < 9:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert read_state(tmp_path / "cut")["step"] < 60
    ended(started(options, tmp_path / "cut", True))
    assert without_times(read_log(tmp_path / "cut")) == without_times(read_log(tmp_path / "whole"))


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(tmp_path):
    one = alike(tiny(optim={"batch_size": 4}, pictures=48, evaluate_every=24))
    two = alike(tiny(optim={"batch_size": 2}, pictures=48, evaluate_every=24))
    train(one, tmp_path / "one")
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint",
                "localhost:0")
    ended(started(two, tmp_path / "two", False, *torchrun))
    alone, shared = (read_log(tmp_path / name) for name in ("one", "two"))
    assert [(line["kind"], line["pictures"]) for line in alone] == [(line["kind"], line["pictures"]) for line in shared]
    for mine, theirs in zip(alone, shared, strict=True):
        if mine["kind"] == "evaluation":
            assert theirs["oks"] == pytest.approx(mine["oks"], abs=SAME_CURVE)
        else:
            assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=SAME_CURVE)


@pytest.mark.slow
def test_the_published_preset_learns_on_refhuman_files(tmp_path, say):
    """200 steps of the published optimiser, losses, prompts, masks and transforms on exported pictures; the parts are narrow."""
    sets = {split: ProceduralPeople(split, 1, 0, number, 64) for split, number in (("train", 400), ("val", 4))}
    export_people(tmp_path / "people", sets)
    whole = UniphdArgs(backbone="small_conv", text_encoder_type="tiny")
    optim = OptimArgs.preset("published", batch_size=2, lr_backbone=1e-4)
    options = TrainArgs(
        arch="efficient", data=str(tmp_path / "people"), pictures=400, model=TINY, whole=whole, optim=optim, loss=LossArgs(), threads=1,
        device="cpu", log_every=1, evaluation_batch=2,
    )
    summary = train(options, tmp_path / "run")
    steps = [line["losses"] for line in read_log(tmp_path / "run") if line["kind"] == "step"]
    assert summary.steps == 200 and len(steps) == 200
    for name in ("total", "loss_keypoints", "loss_ce", "loss_dice"):
        first, last = (np.mean([each[name] for each in part]) for part in (steps[:30], steps[-30:]))
        say(f"{name}: {first:.3f} over the first 30 steps, {last:.3f} over the last 30")
        assert last < 0.95 * first, name


@pytest.mark.slow
def test_a_checkpoint_of_the_published_sizes_is_evaluated_on_refhuman(tmp_path):
    """Swin-T, RoBERTa and the original, 948 names, as torch saved it: no option but the data."""
    export_people(tmp_path / "people", {"val": ProceduralPeople("val", 1, 0, 2, 96)})
    options = TrainArgs(data=str(tmp_path / "people"))
    state = build_model(options).state_dict()
    assert len(state) == 948
    torch.save({"model": state, "epoch": 19}, tmp_path / "uniphd.pth")
    found = evaluate_saved(tmp_path / "uniphd.pth", data=str(tmp_path / "people"), prompt="scribble", resamples=0)
    assert found.entries == 2 and found.estimates["best/mIoU"].value is not None and found.estimates["keypoints/AP"].value is not None
    assert json.loads(json.dumps(found.document()))["arch"] == "original"
    assert dataclasses.asdict(found.options.whole)["backbone"] == "swin_T_224_1k"
