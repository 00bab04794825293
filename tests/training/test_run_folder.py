"""A run's folder as files: what is written is read back, what is broken is one sentence."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from humar_bench.errors import UsageError
from humar_bench.records.appending import OutputLost
from humar_bench.training.run_folder import (
    RunFolder,
    read_checkpoint,
    read_evaluation,
    read_log,
    read_options,
    read_state,
    read_tensors,
)
from tests.training.small_runs import tiny

STATE = {"pictures": 4, "wall_s": 1.5, "cpu_s": 1, "evaluation": {"ap": 0.5}, "schedule": {"last_epoch": 2}}


def line(step: int, total: float | None = 1.0) -> dict:
    return {"kind": "step", "step": step, "pictures": 2 * step, "wall_s": 0.5, "cpu_s": 0.5, "losses": {"total": total}}


@pytest.fixture
def folder(tmp_path):
    """A run of two steps, both logged, a checkpoint after the second."""
    run = RunFolder(tmp_path / "run")
    run.start(tiny(), {"torch": "2"})
    run.log(line(1, float("nan")))
    run.keep(1, {"model.a": torch.ones(2)}, STATE)
    run.log(line(2))
    run.keep(2, {"model.a": torch.zeros(2), "optimizer.a|step": torch.tensor(2.0)}, STATE)
    run.close()
    return tmp_path / "run"


def test_what_is_written_is_read_back(folder):
    assert read_options(folder) == tiny()
    assert read_log(folder) == [line(1, None), line(2)]
    state = read_state(folder)
    assert state["step"] == 2 and {name: state[name] for name in STATE} == STATE
    assert state["log_bytes"] == (folder / "log.jsonl").stat().st_size
    assert {name: value.tolist() for name, value in read_checkpoint(folder, state).items()} == {
        "model.a": [0.0, 0.0], "optimizer.a|step": 2.0}
    assert len(list(folder.glob("checkpoint-*"))) == 1


def test_lines_after_the_checkpoint_are_taken_away(folder):
    with open(folder / "log.jsonl", "ab") as file:
        file.write(json.dumps(line(3)).encode() + b'\n{"kind": "st')
    assert len(read_log(folder)) == 3  # a torn line is none
    run = RunFolder(folder)
    assert run.go_on(tiny())["step"] == 2
    run.close()
    assert [line["step"] for line in read_log(folder)] == [1, 2]


@pytest.mark.parametrize("happens", [lambda folder: folder.rename(folder.with_name("moved")), shutil.rmtree], ids=["renamed", "removed"])
@pytest.mark.parametrize("then", [lambda run: run.keep(2, {}, STATE), lambda run: run.check()], ids=["checkpoint", "end"])
def test_a_folder_that_is_gone_is_said_to_be_with_where_its_log_is(tmp_path, happens, then):
    run = RunFolder(tmp_path / "run")
    run.start(tiny(), {"torch": "2"})
    run.log(line(1))
    happens(tmp_path / "run")
    with pytest.raises(OutputLost, match="log.jsonl was removed or renamed while the run went on") as error:
        then(run)
    run.close()
    assert b'"step": 1' in error.value.kept.read_bytes() and not (tmp_path / "run").exists()


def test_one_process_writes_a_run(folder):
    run = RunFolder(folder)
    run.go_on(tiny())
    with pytest.raises(UsageError, match="is being written by another humar-bench"):
        RunFolder(folder).go_on(tiny())
    run.close()


def checkpoint(**changes) -> bytes:
    return json.dumps({**STATE, "step": 2, "log_bytes": 0, "file": "checkpoint-00000002.safetensors", **changes}).encode()


@pytest.mark.parametrize(("name", "content", "sentence"), [
    ("run.json", b"{", "is not JSON"),
    ("run.json", b"[]", "holds no object"),
    ("run.json", b'{"format": 2, "options": {}}', "is of no training run that this version reads"),
    ("run.json", b'{"format": 1, "options": {"model": 5}}', "these are no options of a training run"),
    ("run.json", None, "cannot be read: No such file or directory"),
    ("checkpoint.json", b"{}", "is no checkpoint that training wrote"),
    ("checkpoint.json", checkpoint(file="/etc/passwd"), "is no checkpoint"),
    ("checkpoint.json", checkpoint(log_bytes="0"), "is no checkpoint"),
    ("log.jsonl", b"", "is shorter than when its checkpoint was made"),
])
def test_a_broken_file_is_one_sentence(folder, name, content, sentence):
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(UsageError, match=sentence) as said:
        RunFolder(folder).go_on(read_options(folder))
    assert "\n" not in str(said.value)


def test_weights_and_evaluations_that_cannot_be_read(folder, tmp_path):
    (folder / "checkpoint-00000002.safetensors").write_bytes(b"no weights")
    with pytest.raises(UsageError, match="cannot be read as weights"):
        read_tensors(folder / "checkpoint-00000002.safetensors")
    np.savez(folder / "evaluations" / "00000007.npz", picture=np.array([object()], dtype=object))
    for step in (6, 7):
        with pytest.raises(UsageError, match=f"0000000{step}.npz cannot be read as an evaluation"):
            read_evaluation(folder, step)
    with pytest.raises(UsageError, match="log.jsonl cannot be read"):
        read_log(tmp_path)
