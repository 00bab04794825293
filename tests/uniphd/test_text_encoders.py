"""Every text encoder at a small size: its sentence, its padding, its gradients; at its published size its parameters."""

from __future__ import annotations

import pytest
import torch

from humar_bench.errors import UsageError
from humar_bench.uniphd.text_encoders import build_text_encoder

BERT = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
SMALL = {
    "roberta": {**BERT, "max_position_embeddings": 34},
    "minilm": BERT,
    "distilbert": {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 40},
    "tinybert": BERT,
    "albert": {**BERT, "embedding_size": 16},
    "mobilebert": {**BERT, "intra_bottleneck_size": 16, "embedding_size": 16},
}
NAMES = tuple(SMALL)
LENGTHS = (9, 5)
PAD = {"roberta": 1}


def captions(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two captions of unequal length."""
    ids = torch.randint(5, 60, (2, max(LENGTHS)), generator=torch.Generator().manual_seed(3))
    attention = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return ids.where(attention == 1, PAD.get(name, 0)), attention


@pytest.fixture(scope="module", params=NAMES)
def small(request):
    torch.manual_seed(1)
    return request.param, build_text_encoder(request.param, **SMALL[request.param]).eval()


@torch.no_grad()
def test_features_padding_and_sentence(small):
    name, encoder = small
    ids, attention = captions(name)
    features, padding, sentence = encoder(ids, attention)
    assert features.shape == (2, 9, encoder.width) and sentence.shape == (2, encoder.width)
    assert torch.equal(padding, attention == 0)
    out = encoder.text_backbone(ids, attention_mask=attention)
    torch.testing.assert_close(features[~padding], out.last_hidden_state[~padding])
    if name in ("minilm", "distilbert"):
        want = torch.stack([x[:length].mean(0) for x, length in zip(out.last_hidden_state, LENGTHS, strict=True)])
    else:
        want = out.pooler_output
    torch.testing.assert_close(sentence, want)


@torch.no_grad()
def test_padding_does_not_leak(small):
    name, encoder = small
    ids, attention = captions(name)
    features, _, sentence = encoder(ids, attention)
    alone, _, alone_sentence = encoder(ids[1:, :5], attention[1:, :5])
    torch.testing.assert_close(features[1:, :5], alone)
    torch.testing.assert_close(sentence[1:], alone_sentence)


def test_trains_compiles_and_exports(small):
    name, encoder = small
    ids, attention = captions(name)
    features, _, sentence = encoder(ids, attention)
    (features.square().mean() + sentence.square().mean()).backward()
    unused = {"pooler"} if name == "minilm" else set()  # published with a pooler whose output nothing reads
    for path, parameter in encoder.text_backbone.named_parameters():
        if not unused.intersection(path.split(".")):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), path
    encoder.zero_grad()
    with torch.no_grad():
        exported = torch.export.export(encoder, (ids, attention)).module()(ids, attention)
        torch.testing.assert_close(exported[0], features.detach())
        torch.testing.assert_close(exported[2], sentence.detach())


def test_compiles_as_one_graph():
    encoder = build_text_encoder("roberta", **SMALL["roberta"]).eval()
    ids, attention = captions("roberta")
    with torch.no_grad():
        compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")(ids, attention)
        torch.testing.assert_close(compiled[0], encoder(ids, attention)[0])


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [("bert", {}, "text_encoder is 'bert'; choose one of roberta"), ("roberta", {"layers": 3}, "RobertaConfig has no value called layers")],
)
def test_wrong_names_are_one_sentence(name, overrides, words):
    with pytest.raises(UsageError, match=words):
        build_text_encoder(name, **overrides)


def test_longer_captions_than_positions_are_one_sentence():
    encoder = build_text_encoder("roberta", **SMALL["roberta"])
    ids = torch.full((1, 33), 7)
    with pytest.raises(UsageError, match="33 tokens; this text encoder takes at most 32"):
        encoder(ids, torch.ones_like(ids))
