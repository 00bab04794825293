"""FLOPs of backbones and text encoders: every operator has a formula, and our own modules cost what their papers say, to 0."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from humar_bench.measures.flops import count_flops
from humar_bench.uniphd.backbones import build_backbone
from humar_bench.uniphd.backbones.efficientformer import PUBLISHED
from humar_bench.uniphd.text_encoders import build_text_encoder
from tests.uniphd import encoder_forms

BERT = {
    "roberta": {"width": 768, "hidden": 3072, "layers": 12, "pooler": True},
    "minilm": {"width": 384, "hidden": 1536, "layers": 6, "pooler": True},
    "distilbert": {"width": 768, "hidden": 3072, "layers": 6, "pooler": False},
    "tinybert": {"width": 312, "hidden": 1200, "layers": 4, "pooler": True},
}


def counted(module: nn.Module, *inputs: torch.Tensor) -> int:
    found = count_flops(module, inputs, strict=True)  # strict: an operator without a formula raises
    assert found.method == "meta" and found.synchronisations == 0, "the forward asks the device for a value"
    return found.matmul_flops


def of_backbone(name: str, size: tuple[int, int], batch: int = 2) -> int:
    with torch.device("meta"):
        backbone = build_backbone(name, size).eval()
        return counted(backbone, torch.empty(batch, 3, *size))


def of_text_encoder(name: str, tokens: int, batch: int = 2) -> int:
    with torch.device("meta"):
        encoder = build_text_encoder(name).eval()
        ids = torch.empty(batch, tokens, dtype=torch.int64)
        return counted(encoder, ids, ids)


@pytest.mark.parametrize("size", [(480, 640), (150, 216)])
def test_swin(size):
    assert of_backbone("swin_T_224_1k", size) == encoder_forms.swin(2, size)


@pytest.mark.parametrize(("name", "size"), [("efficientformerv2_s0", (480, 640)), ("efficientformerv2_s2", (152, 216))])
def test_efficientformer(name, size):
    assert of_backbone(name, size) == encoder_forms.efficientformer(2, size, PUBLISHED[name])


@pytest.mark.parametrize("tokens", [12, 512, 1])
def test_tite(tokens):
    assert of_text_encoder("tite", tokens) == encoder_forms.tite(2, tokens)


@pytest.mark.parametrize("name", BERT)
def test_bert(name):
    assert of_text_encoder(name, 12) == encoder_forms.bert(2, 12, **BERT[name])


@pytest.mark.parametrize("name", ["segformer_mit_b0", "mobilevit_xxs", "poolformer_s12"])
def test_backbones_of_transformers_cost_in_proportion_to_the_batch(name):
    once = of_backbone(name, (64, 96), batch=1)
    assert once > 0 and of_backbone(name, (64, 96), batch=3) == 3 * once


@pytest.mark.parametrize("name", ["albert", "mobilebert"])
def test_text_encoders_cost_in_proportion_to_the_batch(name):
    once = of_text_encoder(name, 12, batch=1)
    assert once > 0 and of_text_encoder(name, 12, batch=3) == 3 * once
