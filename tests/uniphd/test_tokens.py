"""Tokenizers from a folder, cut as upstream cuts; ids of an asked length without one."""

from __future__ import annotations

import pytest
import torch

from humar_bench.errors import UsageError
from humar_bench.uniphd.text_encoders import benchmark_ids, load_tokenizer

WORDS = "<s> <pad> </s> <unk> the person in red waves".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = Whitespace()
    raw.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    path = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(path)
    return path


def test_pads_to_the_longest_with_start_and_end(folder):
    tokenizer = load_tokenizer(folder, "roberta")
    ids, attention = tokenizer(["the person in red waves", "the cat"])
    assert ids.tolist() == [[0, 4, 5, 6, 7, 8, 2], [0, 4, 3, 2, 1, 1, 1]]
    assert attention.tolist() == [[1] * 7, [1] * 4 + [0] * 3]
    assert ids.dtype == torch.int64 and tokenizer.vocabulary == len(WORDS)


@pytest.mark.parametrize(("name", "tokens"), [("roberta", 702), ("minilm", 128), ("distilbert", 512), ("tite", 512)])
def test_cuts_as_upstream(folder, name, tokens):
    ids, attention = load_tokenizer(folder, name)(["red " * 700])
    assert ids.shape == attention.shape == (1, tokens)
    assert ids[0, -1] == 2, "the end token stays"


@pytest.mark.parametrize("caption", ["", "  "])
def test_an_empty_caption_is_one_sentence(folder, caption):
    with pytest.raises(UsageError, match="caption 1 is empty"):
        load_tokenizer(folder, "roberta")(["red", caption])


def test_a_wrong_folder_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="tokenizer folder .*nowhere does not exist"):
        load_tokenizer(tmp_path / "nowhere", "roberta")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match="holds no tokenizer that can be read") as caught:
        load_tokenizer(tmp_path, "roberta")
    assert "\n" not in str(caught.value)


def test_benchmark_ids_are_the_same_for_a_seed_and_words_of_every_encoder():
    ids, attention = benchmark_ids(3, 12, seed=4)
    assert ids.shape == (3, 12) and ids.dtype == torch.int64 and bool((attention == 1).all())
    assert torch.equal(ids, benchmark_ids(3, 12, seed=4)[0])
    assert not torch.equal(ids, benchmark_ids(3, 12, seed=5)[0])
    assert 1000 <= ids.min() and ids.max() < 30000


def test_benchmark_ids_of_given_lengths():
    ids, attention = benchmark_ids(2, 4, pad_id=1, lengths=(4, 2))
    assert attention.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert ids[1, 2:].tolist() == [1, 1] and (ids[attention == 1] >= 1000).all()
    for wrong in ({"batch": 1, "tokens": 0}, {"batch": 2, "tokens": 4, "lengths": (4,)}, {"batch": 1, "tokens": 4, "lengths": (5,)}):
        with pytest.raises(UsageError):
            benchmark_ids(**wrong)
