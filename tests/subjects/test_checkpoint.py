"""Published checkpoints: whatever wrapped them, their transformer's entries load; what could run code is refused."""

from __future__ import annotations

import argparse
import os
import pickle

import pytest
import torch

import humar_bench
from baselines import build_transformer
from humar_bench.errors import UsageError
from humar_bench.subjects.checkpoint import load_into


class TouchesAFile:
    """What unpickling it would do, if anybody let it: make a file."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def model(tiny_args):
    return build_transformer(tiny_args)


@pytest.fixture
def entries(model) -> dict[str, torch.Tensor]:
    """The weights as an outer model that holds a backbone too would name them."""
    transformer = {f"transformer.{name}": torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    return {"backbone.0.weight": torch.zeros(3), **transformer, "transformer_of_another": torch.zeros(1)}


def wrappers(entries) -> dict[str, object]:
    return {
        "bare": entries,
        "a training script's": {"model": entries, "optimizer": {"state": {}}, "epoch": 3, "args": argparse.Namespace(lr=1e-4)},
        "lightning's": {"state_dict": entries, "epoch": 3},
        "of several processes": {"model": {f"module.{name}": tensor for name, tensor in entries.items()}},
        "wrapped twice": {"model": {"state_dict": entries}},
    }


@pytest.mark.parametrize("kind", ["bare", "a training script's", "lightning's", "of several processes", "wrapped twice"])
def test_the_transformers_entries_load_strictly_whatever_wraps_them(tmp_path, model, entries, kind):
    torch.save(wrappers(entries)[kind], tmp_path / "checkpoint.pth")
    loaded = humar_bench.load_checkpoint(tmp_path / "checkpoint.pth")
    model.load_state_dict(loaded, strict=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, entries[f"transformer.{name}"])


def test_another_prefix_takes_other_entries(tmp_path, entries):
    torch.save(entries, tmp_path / "checkpoint.pth")
    assert list(humar_bench.load_checkpoint(tmp_path / "checkpoint.pth", prefix="backbone.")) == ["0.weight"]


def test_loading_into_a_model_that_fits(tmp_path, model, entries):
    torch.save({"model": entries}, tmp_path / "checkpoint.pth")
    assert load_into(model, tmp_path / "checkpoint.pth") is model
    assert torch.equal(model.level_embed, entries["transformer.level_embed"])


def test_a_checkpoint_that_does_not_fit_is_refused_by_its_first_faults(tmp_path, model, entries):
    names = list(model.state_dict())
    for name in names[:5]:
        del entries[f"transformer.{name}"]
    entries["transformer.extra.weight"] = torch.zeros(2)
    entries[f"transformer.{names[7]}"] = torch.zeros(9, 9)
    torch.save({"model": entries}, tmp_path / "checkpoint.pth")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UsageError) as found:
        load_into(model, tmp_path / "checkpoint.pth")
    said = str(found.value)
    assert f"lacks {', '.join(names[:3])} and 2 more" in said
    assert "has besides extra.weight" in said
    assert f"has {names[7]} [9, 9] instead of {list(before[names[7]].shape)}" in said
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("form", ["torch.save", "pickle", "pickle of protocol 2"])
def test_a_malicious_pickle_is_refused_and_nothing_in_it_is_run(tmp_path, form):
    made, path = tmp_path / "made_by_the_checkpoint", tmp_path / "checkpoint.pth"
    content = {"model": {"transformer.weight": torch.zeros(2) if form == "torch.save" else 0, "transformer.bias": TouchesAFile(made)}}
    if form == "torch.save":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2 if form.endswith("2") else 4))
    with pytest.raises(UsageError) as found:
        humar_bench.load_checkpoint(path)
    assert not made.exists()
    assert str(found.value).count("\n") == 0
    if form == "torch.save":
        assert "asks for more than tensors and plain containers (posix.mkdir) and was not loaded" in str(found.value)
    if form == "torch.save":  # the attack is real: without the restriction it runs
        torch.load(path, weights_only=False)
        assert made.exists()


def test_a_whole_model_instead_of_its_weights_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(UsageError, match=r"\(torch\.nn\.modules\.linear\.Linear\) and was not loaded.*save only its state dict"):
        humar_bench.load_checkpoint(tmp_path / "model.pt")


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(UsageError, match="gone.pth does not exist; name a file that torch.save wrote"):
        humar_bench.load_checkpoint(tmp_path / "gone.pth")
    with pytest.raises(UsageError, match="is not a file"):
        humar_bench.load_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello world", b"PK\x03\x04 and then nothing", b"\x80\x02}q\x00.", bytes(range(256))])
def test_a_file_that_is_no_checkpoint_is_one_sentence(tmp_path, content):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"is not a checkpoint|holds no tensors|holds a"):
        humar_bench.load_checkpoint(path)


def test_a_checkpoint_cut_short_is_one_sentence(tmp_path, entries):
    torch.save({"model": entries}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "short.pth").write_bytes(content[: int(share * len(content))])
        with pytest.raises(UsageError, match="cut short; name one that is whole"):
            humar_bench.load_checkpoint(tmp_path / "short.pth")


def test_a_checkpoint_of_something_else_says_what_it_has(tmp_path):
    torch.save({"model": {"backbone.a": torch.zeros(1), "head.b": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match=r"no entry that begins with 'transformer\.'; its entries begin with backbone, head\."):
        humar_bench.load_checkpoint(tmp_path / "other.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(UsageError, match="holds no tensors by name"):
        humar_bench.load_checkpoint(tmp_path / "epoch.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(UsageError, match="holds a list"):
        humar_bench.load_checkpoint(tmp_path / "list.pth")
