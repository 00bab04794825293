"""The small parts that training studies use: shapes, padding, words."""

from __future__ import annotations

import pytest
import torch

from humar_bench.data.sentences import VOCABULARY
from humar_bench.errors import UsageError
from humar_bench.uniphd.backbones import build_backbone
from humar_bench.uniphd.text_encoders import WordTokenizer, build_text_encoder
from humar_bench.uniphd.text_encoders.tiny import ENTRIES


@pytest.mark.parametrize("size", [(64, 96), (96, 80)])
def test_maps_lie_at_strides_4_to_32(size):
    backbone = build_backbone("small_conv")
    maps = backbone(torch.randn(2, 3, *size))
    assert [tuple(each.shape) for each in maps] == [
        (2, width, -(-size[0] // stride), -(-size[1] // stride)) for width, stride in zip(backbone.channels, (4, 8, 16, 32), strict=True)
    ]


def test_padding_changes_no_token_and_no_sentence():
    torch.manual_seed(0)
    encoder = build_text_encoder("tiny").eval()
    tokenizer = WordTokenizer(VOCABULARY)
    alone, beside = tokenizer(["the seated person"]), tokenizer(["the seated person", "the person in the red shirt on the far left"])
    one, other = encoder(*alone), encoder(*beside)
    assert one[0].shape == (1, 3, encoder.width) and beside[0].shape[1] == 10
    torch.testing.assert_close(other[0][0, :3], one[0][0])
    torch.testing.assert_close(other[2][0], one[2][0])
    assert other[1][0].tolist() == [False] * 3 + [True] * 7
    swapped = encoder(*tokenizer(["person the seated"]))
    assert not torch.allclose(swapped[2], one[2], atol=1e-3)  # the order of words counts


def test_known_words_have_an_id_each_and_others_share_the_rest():
    tokenizer = WordTokenizer(VOCABULARY)
    ids, attention = tokenizer([" ".join(VOCABULARY[:30]), "Seated, RED-haired!"])
    assert len(set(ids[0].tolist())) == 30 and attention[1].sum() == 3
    assert ids[1, :3].tolist() == [tokenizer.ids[word] for word in ("seated", "red", "haired")]
    unknown = tokenizer(["zebra 42 crossing"])[0][0].tolist()
    assert all(len(tokenizer.ids) < each < ENTRIES for each in unknown) and tokenizer(["zebra"])[0][0, 0] == unknown[0]
    assert tokenizer(["word " * 100])[0].shape == (1, build_text_encoder("tiny").max_tokens)
    with pytest.raises(UsageError, match="caption 1 has no words"):
        tokenizer(["a person", " ?! "])
    with pytest.raises(UsageError, match="takes at most 510"):
        WordTokenizer([str(number) for number in range(511)])
