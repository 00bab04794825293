"""The front end's head start: it learns, it is what every architecture then starts from, and another model's is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import humar_bench.training.warm_start as warm
from humar_bench.data.targets import Target, TargetBatch
from humar_bench.errors import UsageError
from humar_bench.training.run_folder import read_tensors
from humar_bench.training.step import FRONT_END, build_model, load_front_end
from humar_bench.training.warm_start import WARM_OPTIM, CellHead, cell_loss, warm_start
from humar_bench.uniphd.backbones.small import SmallConvBackbone
from tests.training.small_runs import tiny


def one_person(x: float, y: float, visible: tuple[float, ...] = (1.0, 1.0, 1.0)) -> TargetBatch:
    points = torch.tensor([x, y, 0.5, 0.5, 0.25, 0.75, *visible])
    return TargetBatch.collate([Target(torch.ones(1).long(), torch.full((1, 4), 0.5), points[None], torch.ones(1), (8, 8))])


def test_the_loss_is_least_where_the_keypoints_are():
    """On a map of 4x2 cells: a keypoint in the middle of a cell is that cell's, one between two is half each one's, one outside the
    outermost centres is the outermost cell's."""
    for (x, y), shares in (((3.5 / 4, 0.25), {3: 1.0}), ((2 / 4, 0.75), {5: 0.5, 6: 0.5}), ((0.0, 0.0), {0: 1.0}), ((1.0, 1.0), {7: 1.0})):
        logits = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(1))
        log = logits.log_softmax(-1)[0, 0]
        found = cell_loss(logits, one_person(x, y, (1.0, 0.0, 0.0)), (2, 4))
        assert found.item() == pytest.approx(-sum(share * log[cell].item() for cell, share in shares.items()), rel=1e-5)
    assert cell_loss(torch.randn(1, 3, 8), one_person(0, 0, (0.0, 0.0, 0.0)), (2, 4)).item() == 0


def test_levels_of_any_size_are_read_on_the_finest():
    head = CellHead(8, 17)
    assert head([torch.randn(2, 8, 4, 6), torch.randn(2, 8, 2, 3)]).shape == (2, 17, 24)


def test_a_warm_start_learns_and_is_shared_by_architectures(tmp_path):
    told = []
    options = tiny(pictures=160, size=64)
    optim = dataclasses.replace(WARM_OPTIM, warmup_steps=2)
    made = warm_start(options, tmp_path / "front.safetensors", optim=optim, tell=lambda event: told.append(event["loss"]))
    assert made.pictures == 160 and len(told) == 20 and made.loss < told[0] - 0.3
    weights = read_tensors(made.path)
    assert {name.partition(".")[0] for name in weights} <= set(FRONT_END)
    before = build_model(tiny("original")).state_dict()
    models = [build_model(tiny(arch)) for arch in ("original", "efficient")]
    for model in models:
        load_front_end(model, str(made.path))
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], weights[name]) and torch.equal(other[name], weights[name]) for name in weights)
    assert not torch.equal(one["backbone.0.stem.conv.weight"], before["backbone.0.stem.conv.weight"])
    assert torch.equal(one["transformer.enc_output.weight"], before["transformer.enc_output.weight"])
    again = warm_start(options, tmp_path / "again.safetensors", optim=optim)
    assert all(torch.equal(value, read_tensors(again.path)[name]) for name, value in weights.items())
    begun, told = told[0], []
    further = dataclasses.replace(options, front_end=str(made.path), pictures=8)
    warm_start(further, tmp_path / "further.safetensors", optim=optim, tell=lambda event: told.append(event["loss"]))
    assert told[0] < begun - 0.3  # it goes on from there


def test_everybody_in_a_picture_of_several_is_asked_about_and_looked_at_once(tmp_path, monkeypatch):
    """Level 1, and not level 0, whose pictures have one question; the drawn pictures of other runs are not wanted."""
    looked, asked = [], []
    forward, loss = SmallConvBackbone.forward, cell_loss
    monkeypatch.setattr(SmallConvBackbone, "forward", lambda self, images: looked.append(len(images)) or forward(self, images))
    monkeypatch.setattr(warm, "cell_loss", lambda logits, *rest: asked.append(len(logits)) or loss(logits, *rest))
    options = tiny(pictures=32, size=64, rendered=str(tmp_path / "drawn"))
    optim = dataclasses.replace(WARM_OPTIM, warmup_steps=2)
    warm_start(options, tmp_path / "one.safetensors", optim=optim)
    assert looked == asked == [8] * 4 and (tmp_path / "drawn").exists()
    looked.clear(), asked.clear()
    several = dataclasses.replace(options, data="procedural:1", rendered=str(tmp_path / "unused"))
    made = warm_start(several, tmp_path / "several.safetensors", optim=optim)
    assert looked == [8] * 4 and min(asked) >= 3 * 8 and not (tmp_path / "unused").exists()
    again = warm_start(dataclasses.replace(several, workers=1), tmp_path / "again.safetensors", optim=optim)
    assert made.oks == again.oks and made.pictures == 32
    asked.clear()
    easy_first = dataclasses.replace(several, data="procedural:0-1", rendered=str(tmp_path / "both"))
    warm_start(easy_first, tmp_path / "easy-first.safetensors", optim=optim)
    warm_start(dataclasses.replace(several, augment=True, pictures=8), tmp_path / "augmented.safetensors", optim=optim)
    assert asked == [8] * 5 and (tmp_path / "both").exists()


def test_another_models_front_end_is_refused(tmp_path):
    made = warm_start(tiny(pictures=8, size=64), tmp_path / "front.safetensors")
    wider = dataclasses.replace(tiny(), model=dataclasses.replace(tiny().model, hidden_dim=64))
    with pytest.raises(UsageError, match="is the front end of another model: fusion_module.* do not fit"):
        load_front_end(build_model(wider), str(made.path))
