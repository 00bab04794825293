"""Published weights from a folder: what fits is loaded, what does not is one sentence; nothing is fetched unasked."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from humar_bench.errors import UsageError
from humar_bench.subjects.weights import HUB, load_backbone_weights, load_text_weights, pretrained
from humar_bench.uniphd.backbones import build_backbone
from humar_bench.uniphd.backbones.efficientformer import EfficientFormerV2
from humar_bench.uniphd.backbones.swin import SwinTransformer
from humar_bench.uniphd.text_encoders import benchmark_ids, build_text_encoder
from tests.tolerance import assert_close, chained_terms
from tests.uniphd.test_swin import SMALL as SMALL_SWIN
from tests.uniphd.test_swin import drawn
from tests.uniphd.test_text_encoders import SMALL as SMALL_TEXT


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def save(state: dict[str, torch.Tensor], folder) -> None:
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    save_file({name: value.clone().contiguous() for name, value in state.items()}, folder / "model.safetensors")


def same_maps(a: nn.Module, b: nn.Module) -> None:
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        for x, y in zip(a.eval().double()(images), b.eval().double()(images), strict=True):
            assert_close(y, x, terms=chained_terms(a))


def test_swin_from_a_file_of_transformers(tmp_path):
    from transformers import SwinBackbone, SwinConfig

    config = SwinConfig(
        embed_dim=SMALL_SWIN["width"], depths=list(SMALL_SWIN["depths"]), num_heads=list(SMALL_SWIN["heads"]), window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    theirs = drawn(SwinBackbone(config)).eval()
    theirs.save_pretrained(tmp_path)
    ours = SwinTransformer(**SMALL_SWIN).eval()
    load_backbone_weights(ours, tmp_path)
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        for x, y in zip(ours.double()(images), theirs.double()(images).feature_maps, strict=True):
            assert_close(x, y, terms=chained_terms(ours))


def test_swin_from_the_published_names_of_a_classifier(tmp_path):
    source, target = drawn(SwinTransformer(**SMALL_SWIN)), SwinTransformer(**SMALL_SWIN)
    state = {name: value for name, value in source.state_dict().items() if not name.startswith("norm")}
    state |= {"norm.weight": torch.ones(192), "head.weight": torch.ones(10, 192), "layers.0.blocks.1.attn_mask": torch.zeros(4, 49, 49)}
    save(state, tmp_path)
    load_backbone_weights(target, tmp_path)
    for i in range(4):
        source.get_submodule(f"norm{i}").reset_parameters()
    same_maps(source, target)


def test_efficientformer_from_a_file_of_another_image_size(tmp_path):
    source, target = (EfficientFormerV2("efficientformerv2_s0", size) for size in ((64, 64), (96, 128)))
    save({**source.state_dict(), "head.bias": torch.zeros(5), "head_dist.bias": torch.zeros(5), "norm.bias": torch.zeros(5)}, tmp_path)
    load_backbone_weights(target, tmp_path)
    same_maps(source, target)


@pytest.mark.parametrize("name", ["segformer_mit_b0", "mobilevit_xxs"])
def test_backbones_of_transformers_from_a_classifier(name, tmp_path):
    import transformers

    source, target = build_backbone(name), build_backbone(name)
    classifier = {"segformer_mit_b0": "SegformerForImageClassification", "mobilevit_xxs": "MobileViTForImageClassification"}[name]
    whole = getattr(transformers, classifier)(source.model.config)
    getattr(whole, whole.base_model_prefix).load_state_dict(source.model.state_dict(), strict=False)
    whole.save_pretrained(tmp_path)
    load_backbone_weights(target, tmp_path)
    same_maps(source, target)


@pytest.mark.parametrize("name", ["roberta", "minilm", "albert", "tite"])
def test_text_encoders_from_a_folder(name, tmp_path):
    source, target = (build_text_encoder(name, **SMALL_TEXT[name]).eval() for _ in range(2))
    ids, attention = benchmark_ids(1, 9, vocabulary=60)
    if name == "tite":
        save(source.text_backbone.state_dict(), tmp_path)
    else:
        source.text_backbone.save_pretrained(tmp_path)
    with torch.no_grad():
        want = source(ids, attention)
        assert not torch.equal(want[2], target(ids, attention)[2])
        load_text_weights(target, tmp_path)
        assert_close(target(ids, attention)[2], want[2], terms=chained_terms(target))


def test_a_pickled_checkpoint_is_read_as_tensors_only(tmp_path):
    source, target = build_text_encoder("tite", **SMALL_TEXT["tite"]), build_text_encoder("tite", **SMALL_TEXT["tite"])
    torch.save(source.text_backbone.state_dict(), tmp_path / "pytorch_model.bin")
    load_text_weights(target, tmp_path)
    assert torch.equal(target.text_backbone.embeddings.norm.weight, source.text_backbone.embeddings.norm.weight)
    torch.save({"model": source}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match="pytorch_model.bin asks for more than tensors and plain containers"):
        load_text_weights(target, tmp_path)


def refused(call, *args) -> str:
    with pytest.raises(UsageError) as caught:
        call(*args)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    return str(caught.value)


def test_folders_without_weights_are_one_sentence(tmp_path):
    small = build_text_encoder("tinybert", **SMALL_TEXT["tinybert"])
    swin = SwinTransformer(**SMALL_SWIN)
    for load, module in ((load_text_weights, small), (load_backbone_weights, swin)):
        assert "does not exist" in refused(load, module, tmp_path / "nowhere")
        assert "holds no model.safetensors or pytorch_model.bin" in refused(load, module, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    for load, module in ((load_text_weights, small), (load_backbone_weights, swin)):
        assert "cannot be read" in refused(load, module, tmp_path)


def test_weights_of_another_model_are_one_sentence(tmp_path):
    small = SMALL_TEXT["tinybert"]
    deeper, wider = (build_text_encoder("tinybert", **{**small, **more}) for more in ({"num_hidden_layers": 3}, {"intermediate_size": 48}))
    for i, source in enumerate((deeper, wider)):
        source.text_backbone.save_pretrained(tmp_path / str(i))
    target = build_text_encoder("tinybert", **small)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    assert "it has no encoder.layer.2" in refused(load_text_weights, target, tmp_path / "0")
    assert "encoder.layer.0.intermediate.dense.bias and" in refused(load_text_weights, target, tmp_path / "1")
    assert "do not fit" in refused(load_backbone_weights, SwinTransformer(**SMALL_SWIN), tmp_path / "0")
    for name, value in target.state_dict().items():
        assert torch.equal(value, before[name]), "a refused folder leaves the model as it was"


def test_a_swin_of_another_size_is_one_sentence(tmp_path):
    save(SwinTransformer(**SMALL_SWIN).state_dict(), tmp_path)
    shallower, wider = SwinTransformer(**{**SMALL_SWIN, "depths": (2, 2, 2, 1)}), SwinTransformer(**{**SMALL_SWIN, "width": 32})
    assert "it has no layers.2.blocks.2" in refused(load_backbone_weights, shallower, tmp_path)
    assert "are of another model: size mismatch for" in refused(load_backbone_weights, wider, tmp_path)


def test_other_modules_are_refused(tmp_path):
    assert "Linear is no backbone of build_backbone" in refused(load_backbone_weights, nn.Linear(1, 1), tmp_path)


def test_every_name_is_known_to_the_hub_and_offline_is_one_sentence(tmp_path, monkeypatch):
    from humar_bench.args import BACKBONES, TEXT_ENCODERS

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert set(HUB) == {*BACKBONES, *TEXT_ENCODERS}
    assert "the weights of minilm cannot be had from the hub (sentence-transformers/all-MiniLM-L6-v2)" in refused(pretrained, "minilm")
    assert "no published weights are known for 'bert'" in refused(pretrained, "bert")


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = refused(build_text_encoder, "roberta")
    assert message == 'RobertaModel comes from the package transformers, which is not installed; run pip install "humar-bench[model]".'
    assert "SegformerModel" in refused(build_backbone, "segformer_mit_b0")


def test_own_models_need_no_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with torch.device("meta"):
        for name in ("swin_T_224_1k", "efficientformerv2_s0"):
            build_backbone(name)
        build_text_encoder("tite")
