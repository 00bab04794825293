"""Every text encoder at a small size: its sentence, its padding, its gradients; at its published size its parameters."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from humar_bench.args import TEXT_ENCODERS
from humar_bench.errors import UsageError
from humar_bench.uniphd.text_encoders import benchmark_ids, build_text_encoder
from humar_bench.uniphd.text_encoders.tite import Attention, pool_pairs
from tests.tolerance import assert_close, chained_terms

PUBLISHED = {  # the table's names, by ours
    "roberta": "RoBERTa-base", "minilm": "MiniLM-L6 (384)", "distilbert": "DistilBERT", "tinybert": "TinyBERT-4L (312)",
    "albert": "ALBERT-base-v2", "mobilebert": "MobileBERT", "tite": "TiTe-LATE",
}
with (Path(__file__).parent.parent / "data" / "variants.csv").open() as file:
    TABLE = {row["name"]: row for row in csv.DictReader(file) if row["kind"] == "text"}

BERT = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
SMALL = {
    "roberta": {**BERT, "max_position_embeddings": 34},
    "minilm": BERT,
    "distilbert": {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 40},
    "tinybert": BERT,
    "albert": {**BERT, "embedding_size": 16},
    "mobilebert": {**BERT, "intra_bottleneck_size": 16, "embedding_size": 16},
    "tite": {**BERT, "num_hidden_layers": 6, "max_position_embeddings": 16},
}
LENGTHS = (9, 5)


def captions(encoder) -> tuple[torch.Tensor, torch.Tensor]:
    """Two captions of unequal length."""
    return benchmark_ids(2, 9, vocabulary=60, pad_id=encoder.pad_id, lengths=LENGTHS)


@pytest.mark.parametrize("name", TEXT_ENCODERS)
def test_parameters_and_width(name):
    with torch.device("meta"):
        encoder = build_text_encoder(name)
    row = TABLE[PUBLISHED[name]]
    assert sum(parameter.numel() for parameter in encoder.parameters()) == int(row["parameters"])
    assert encoder.width == int(row["channels_or_width"])
    assert all(path.startswith("text_backbone.") for path in encoder.state_dict())
    assert encoder.max_tokens == 512


@pytest.fixture(scope="module", params=TEXT_ENCODERS)
def small(request):
    torch.manual_seed(1)
    return request.param, build_text_encoder(request.param, **SMALL[request.param]).eval().double()


@torch.no_grad()
def test_features_padding_and_sentence(small):
    name, encoder = small
    ids, attention = captions(encoder)
    features, padding, sentence = encoder(ids, attention)
    assert sentence.shape == (2, encoder.width)
    if name == "tite":
        assert features.shape == (2, 1, encoder.width) and not padding.any() and torch.equal(features[:, 0], sentence)
        return
    assert features.shape == (2, 9, encoder.width)
    assert torch.equal(padding, attention == 0)
    out = encoder.text_backbone(ids, attention_mask=attention)
    assert_close(features[~padding], out.last_hidden_state[~padding], terms=chained_terms(encoder))
    if name in ("minilm", "distilbert"):
        want = torch.stack([x[:length].mean(0) for x, length in zip(out.last_hidden_state, LENGTHS, strict=True)])
    else:
        want = out.pooler_output
    assert_close(sentence, want, terms=chained_terms(encoder))


@torch.no_grad()
def test_padding_does_not_leak(small):
    name, encoder = small
    ids, attention = captions(encoder)
    features, _, sentence = encoder(ids, attention)
    alone, _, alone_sentence = encoder(ids[1:, :5], attention[1:, :5])
    assert_close(features[1:, : alone.shape[1]], alone, terms=chained_terms(encoder))
    assert_close(sentence[1:], alone_sentence, terms=chained_terms(encoder))


def test_trains_compiles_and_exports(small):
    name, encoder = small
    ids, attention = captions(encoder)
    features, _, sentence = encoder(ids, attention)
    (features.square().mean() + sentence.square().mean()).backward()
    unused = {"minilm": {"pooler"}, "tite": {"query", "key"}}.get(name, set())  # a pooler nothing reads; attention to the one token left
    for path, parameter in encoder.text_backbone.named_parameters():
        if parameter.grad is None:
            assert unused.intersection(path.split(".")), path
        else:
            assert parameter.grad.isfinite().all(), path
    encoder.zero_grad()
    with torch.no_grad():
        exported = torch.export.export(encoder, (ids, attention)).module()(ids, attention)
        assert_close(exported[0], features, terms=chained_terms(encoder))
        assert_close(exported[2], sentence, terms=chained_terms(encoder))


def test_compiles_as_one_graph():
    encoder = build_text_encoder("roberta", **SMALL["roberta"]).eval().double()
    ids, attention = captions(encoder)
    with torch.no_grad():
        compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")(ids, attention)
        assert_close(compiled[0], encoder(ids, attention)[0], terms=chained_terms(encoder))


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("bert", {}, "text_encoder is 'bert'; choose one of roberta"),
        ("roberta", {"layers": 3}, "RobertaConfig has no value called layers"),
        ("tite", {"layers": 3}, "tite has no value called layers; it has vocab_size"),
        ("tite", {"num_hidden_layers": 8}, "num_hidden_layers is 8; 512 positions are halved to one in 9 layers"),
    ],
)
def test_wrong_names_are_one_sentence(name, overrides, words):
    with pytest.raises(UsageError, match=words):
        build_text_encoder(name, **overrides)


def test_longer_captions_than_positions_are_one_sentence():
    encoder = build_text_encoder("roberta", **SMALL["roberta"])
    ids = torch.full((1, 33), 7)
    with pytest.raises(UsageError, match="33 tokens; this text encoder takes 1 to 32"):
        encoder(ids, torch.ones_like(ids))


def test_pooling_by_hand():
    x, token = torch.tensor([[[1.0], [3.0], [5.0]], [[2.0], [7.0], [9.0]]]), torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    pooled, left = pool_pairs(x, token)
    assert pooled[..., 0].tolist() == [[2.0, 5.0], [2.0, 0.0]]
    assert left.tolist() == [[True, True], [True, False]]


def test_tite_halves_in_its_last_layers():
    with torch.device("meta"):
        layers = build_text_encoder("tite").text_backbone.encoder.layers
    assert [layer.attention.pooled for layer in layers] == [False] * 3 + [True] * 9


@torch.no_grad()
def test_tite_attention_by_hand():
    """Queries are the pooled tokens, keys and values all valid ones, the residual is the pooled token."""
    torch.manual_seed(0)
    attention = Attention(8, heads=2, pooled=True).eval().double()
    x, token = torch.randn(1, 5, 8, dtype=torch.float64), torch.tensor([[1, 1, 1, 0, 0]]).bool()
    valid, pairs = x[0, :3], torch.stack((x[0, :2].mean(0), x[0, 2]))
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        q, k, v = attention.query(pairs)[:, part], attention.key(valid)[:, part], attention.value(valid)[:, part]
        heads.append((q @ k.T / 2).softmax(-1) @ v)
    want = attention.norm(pairs + attention.dense(torch.cat(heads, dim=1)))
    out, left = attention(x, token)
    assert_close(out[0, :2], want, terms=chained_terms(attention))
    assert left.tolist() == [[True, True, False]]


def test_tite_uses_all_its_weights_on_a_full_caption():
    encoder = build_text_encoder("tite", **SMALL["tite"])
    encoder(*benchmark_ids(1, 16, vocabulary=60))[2].square().sum().backward()
    unused = [path for path, parameter in encoder.named_parameters() if parameter.grad is None]
    assert unused == []
