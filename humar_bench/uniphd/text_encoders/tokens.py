"""Captions to token ids: a published tokenizer from a folder, or ids of an asked length for a benchmark.

Shapes: B captions, T tokens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from humar_bench.errors import UsageError, not_installed
from humar_bench.uniphd.library import from_transformers, quiet

TRUNCATED = {"roberta": None, "minilm": 128}  # tokens a caption is cut to, as upstream; the others: 512
LONGEST = 512
VOCABULARY = 30000  # of the smallest published one: ids below it are words of every text encoder
PLAIN = 1000  # ids from here on are words; special tokens and unused entries come first


class Tokenizer:
    """Captions -> token ids, padded to the longest, start and end tokens included, cut where the text encoder's upstream cuts."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer, self.longest = tokenizer, TRUNCATED.get(name, LONGEST)
        self.vocabulary = len(tokenizer)

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """B captions -> ids [B, T] int64, attention [B, T] with 1 = token. Raises UsageError for an empty caption."""
        refuse_empty(captions)
        cut = {} if self.longest is None else {"truncation": True, "max_length": self.longest}
        found = self.tokenizer(list(captions), padding="longest", return_tensors="pt", **cut)
        return found["input_ids"], found["attention_mask"]


def load_tokenizer(folder: str | Path, name: str) -> Tokenizer:
    """The tokenizer of a folder in the layout of the Hugging Face hub, for the text encoder `name`; nothing is fetched.

    Raises UsageError where the folder holds none or transformers is missing.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise UsageError(f"the tokenizer folder {folder} does not exist; give a folder with tokenizer.json or a vocabulary.")
    (auto,) = from_transformers("AutoTokenizer")
    try:
        with quiet():
            tokenizer = auto.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises whatever its parsers do
        reason = str(error).strip().splitlines()
        raise UsageError(
            f"the folder {folder} holds no tokenizer that can be read ({reason[0] if reason else type(error).__name__}); it needs "
            "tokenizer.json, or a vocabulary and tokenizer_config.json."
        ) from error
    return Tokenizer(tokenizer, name)


class WordPieceTokenizer:
    """Captions -> token ids, by a word-piece tokenizer whose vocabulary is the words of some captions: what tokenising costs can be
    measured with it where no published vocabulary is at hand. Ids are words of every text encoder."""

    def __init__(self, captions: Sequence[str], pad_id: int = 0) -> None:
        """Raises UsageError where the package tokenizers is missing."""
        try:
            from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
        except ImportError as error:
            raise not_installed("captions are tokenised by", "tokenizers", extra="model") from error
        split = pre_tokenizers.BertPreTokenizer()
        words = {word for caption in captions for word, _ in split.pre_tokenize_str(caption.lower())}
        names = ["[UNK]", "[CLS]", "[SEP]", *sorted(words)]
        ids = {name: PLAIN + index % (VOCABULARY - PLAIN) for index, name in enumerate(names)}
        self.pad_id, self.tokenizer = pad_id, Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
        self.tokenizer.normalizer, self.tokenizer.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), split
        self.tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
        self.tokenizer.enable_truncation(LONGEST)

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """B captions -> ids [B, T] int64, attention [B, T] with 1 = token. Raises UsageError for an empty caption."""
        refuse_empty(captions)
        found = [each.ids for each in self.tokenizer.encode_batch(list(captions))]
        longest = max(map(len, found))
        ids = torch.tensor([each + [self.pad_id] * (longest - len(each)) for each in found])
        return ids, torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in found])


def refuse_empty(captions: Sequence[str]) -> None:
    """Raises UsageError for a caption without a word."""
    for i, caption in enumerate(captions):
        if not caption.strip():
            raise UsageError(f"caption {i} is empty; write what the person looks like, such as 'the person in red'.")


def benchmark_ids(
    batch: int, tokens: int, *, seed: int = 0, vocabulary: int = VOCABULARY, pad_id: int = 0, lengths: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Captions of random words, the same for the same seed: ids [batch, tokens] int64, attention [batch, tokens].

    `lengths`: tokens of each caption, the rest of it `pad_id`; without them all are tokens. Raises UsageError for a length below 1 or above
    `tokens`.
    """
    if batch < 1 or tokens < 1:
        raise UsageError(f"{batch} captions of {tokens} tokens were asked for; both must be at least 1.")
    lengths = (tokens,) * batch if lengths is None else tuple(lengths)
    if len(lengths) != batch or not all(1 <= length <= tokens for length in lengths):
        raise UsageError(f"caption lengths are {lengths}; give {batch} of 1 to {tokens} tokens.")
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(min(PLAIN, vocabulary // 2), vocabulary, (batch, tokens), generator=generator)
    attention = (torch.arange(tokens) < torch.tensor(lengths)[:, None]).long()
    return ids.where(attention == 1, pad_id), attention
