"""What only a real CUDA device can prove of training: it learns there, goes on from a checkpoint, and computes what the CPU computes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from humar_bench.training.loop import train
from humar_bench.training.run_folder import read_log, read_tensors
from humar_bench.training.warm_start import WARM_OPTIM, warm_start
from tests.training.small_runs import Killed, killed_at, tiny

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def on(device: str, arch: str = "efficient", **changes):
    return dataclasses.replace(tiny(arch, no_dropout=True), device=device, **changes)


def losses(folder) -> list[float]:
    return [line["losses"]["total"] for line in read_log(folder) if line["kind"] == "step"]


@pytest.mark.parametrize("arch", ["original", "efficient", "efficient-accurate"])
def test_the_first_steps_are_those_of_the_cpu(arch, tmp_path):
    for device in ("cpu", "cuda"):
        train(on(device, arch), tmp_path / device)
    own, expected = losses(tmp_path / "cuda"), losses(tmp_path / "cpu")
    assert own[0] == pytest.approx(expected[0], rel=1e-3)  # of the same weights and pictures, convolutions by TF32
    assert own == pytest.approx(expected, rel=0.1)  # a rounding may choose another query


def test_a_run_goes_on_from_its_checkpoint_and_half_precision_learns(tmp_path):
    options = on("cuda", dtype="bfloat16", workers=1)
    whole = train(options, tmp_path / "whole")
    assert all(torch.isfinite(torch.tensor(losses(tmp_path / "whole")))) and 0 <= whole.evaluation["oks"] <= 1
    with pytest.raises(Killed):
        train(options, tmp_path / "cut", tell=killed_at(5))
    again = train(options, tmp_path / "cut", resume=True)
    assert again.steps == whole.steps and losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=0.1)


def test_matrix_units_are_used_where_asked_for_and_only_there(tmp_path):
    seen = []
    for dtype in ("tf32", "float32"):
        train(on("cuda", dtype=dtype), tmp_path / dtype, tell=lambda event: seen.append(torch.get_float32_matmul_precision()))
    assert set(seen[: len(seen) // 2]) == {"high"} and set(seen[len(seen) // 2 :]) == {"highest"}
    assert losses(tmp_path / "tf32")[0] == pytest.approx(losses(tmp_path / "float32")[0], rel=1e-2)


def test_a_warm_start_learns_there_and_is_kept_for_every_device(tmp_path):
    optim, told = dataclasses.replace(WARM_OPTIM, warmup_steps=2), {"cpu": [], "cuda": []}
    for device, heard in told.items():
        options = on(device, pictures=32)
        warm_start(options, tmp_path / f"{device}.safetensors", optim=optim, tell=lambda event, heard=heard: heard.append(event["loss"]))
    assert told["cuda"][0] == pytest.approx(told["cpu"][0], rel=1e-3) and told["cuda"][-1] == pytest.approx(told["cpu"][-1], rel=0.05)
    assert all(value.device.type == "cpu" for value in read_tensors(tmp_path / "cuda.safetensors").values())
