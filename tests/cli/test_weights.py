"""Weights from the command line: what is named is loaded, what cannot be is one sentence before anything is measured."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from humar_bench import cli
from humar_bench.args import ModelArgs, RunArgs, WholeWorkload
from humar_bench.running.task import Task
from humar_bench.subjects.registry import parse_architecture
from humar_bench.uniphd.backbones import build_backbone
from humar_bench.uniphd.text_encoders import build_text_encoder

WORK = ("params", "--whole", "--backbone", "mobilevit_xxs", "--text-encoder", "tinybert", "--workload", "tiny", "--arch", "efficient")


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def save(module: torch.nn.Module, folder) -> None:
    """As the hub lays it out, by the names of transformers."""
    folder.mkdir()
    with torch.no_grad():
        for each in module.state_dict().values():
            if each.is_floating_point():
                each.add_(0.125)
    module.save_pretrained(folder)


@pytest.fixture
def folders(tmp_path):
    torch.manual_seed(1)
    save(build_backbone("mobilevit_xxs", (64, 96)).model, tmp_path / "backbone")
    save(build_text_encoder("tinybert").text_backbone, tmp_path / "text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"not weights")
    return tmp_path


@pytest.mark.parametrize(("typed", "says"), [
    (("--backbone-weights", "nowhere"), "the weights folder nowhere does not exist"),
    (("--backbone-weights", "empty"), "the folder empty holds no model.safetensors or pytorch_model.bin"),
    (("--text-weights", "broken"), "broken/model.safetensors cannot be read as weights"),
    (("--backbone-weights", "text"), "the weights in text are of another model than MobileViTModel"),
    (("--text-weights", "backbone"), "the weights in backbone are of another model than BertModel"),
    (("--pretrained",), "the weights of mobilevit_xxs cannot be had from the hub (apple/mobilevit-xx-small)"),
    (("--pretrained", "--text-weights", "text"), "text_weights is 'text' and pretrained was asked for; give one of the two"),
    (("--arch", "b=efficient[backbone=segformer_mit_b0]", "--backbone-weights", "backbone"),
     "b has the backbone segformer_mit_b0, and the weights in backbone are of mobilevit_xxs"),
])
def test_weights_that_cannot_be_are_one_sentence_before_anything_is_measured(typed, says, folders, capsys, monkeypatch):
    monkeypatch.setattr("humar_bench.running.bench.benchmark", lambda *given, **more: pytest.fail("something was measured"))
    assert cli.main([*WORK, *typed]) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(("typed", "missing", "says"), [
    (("params", "--whole"), "transformers", "roberta comes from the package transformers, which is not installed; run pip install"),
    (("variants", "--no-time"), "transformers", "roberta comes from the package transformers"),
    (("params", "--whole", "--text-encoder", "tite", "--arch", "small=efficient[backbone=mobilevit_s]"), "transformers",
     "mobilevit_s comes from the package transformers"),
    (("fps", "--whole", "--end-to-end"), "PIL", "--end-to-end reads pictures with the package pillow, which is not installed"),
])
def test_a_missing_package_is_one_sentence_before_anything_is_measured(typed, missing, says, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == missing else found(name, *more))
    assert cli.main(list(typed)) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.strip().splitlines()) == 1


def test_only_the_whole_model_has_weights(capsys):
    assert cli.main(["params", "--text-weights", "text"]) == 2
    assert "text-weights is 'text' and only the whole model has one; add --whole" in capsys.readouterr().err


def test_what_is_named_is_loaded(folders):
    from safetensors.torch import load_file

    def built(**named):
        work = WholeWorkload(backbone="mobilevit_xxs", text_encoder="tinybert", image_size=(64, 96), num_queries=4, **named)
        task = Task("fps", [], ModelArgs(dec_layers=1, enc_layers=1, num_queries=4), work, RunArgs())
        return task.model(parse_architecture("efficient"), "cpu").state_dict()

    both, plain = built(backbone_weights=str(folders / "backbone"), text_weights=str(folders / "text")), built()
    for prefix, folder in (("backbone.0.model.", "backbone"), ("text_encoder.text_backbone.", "text")):
        state = load_file(folders / folder / "model.safetensors")
        assert state and all(torch.equal(both[prefix + name], value) for name, value in state.items() if prefix + name in both)
        assert any(not torch.equal(both[prefix + name], plain[prefix + name]) for name in state if prefix + name in both)


def test_the_table_says_whose_weights_they_are(in_process, folders, capsys):
    assert cli.main([*WORK, "--backbone-weights", "backbone", "--text-weights", "text"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "masks all, weights of the backbone from backbone, weights of the text encoder from text." in said
