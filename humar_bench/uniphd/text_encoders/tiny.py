"""A tiny text encoder and its word-level token ids, ours and nobody's published ones: what a training study on a CPU can afford.

Shapes: B captions, T tokens, D width.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from humar_bench.errors import UsageError
from humar_bench.uniphd.text_encoders.encoder import TextEncoder

WIDTH, HEADS, LAYERS, LONGEST, ENTRIES = 64, 4, 1, 64, 512
PAD, FIRST_WORD = 0, 1
INIT_STD = 0.5  # of words and positions: as large as what the layer's normalisation makes of them


class TinyTextEncoder(TextEncoder):
    """Word and position embeddings, a transformer layer, and the mean of the tokens as the sentence. No dropout."""

    pad_id, width, max_tokens, vocabulary = PAD, WIDTH, LONGEST, ENTRIES

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.text_backbone = nn.ModuleDict({
            "words": nn.Embedding(ENTRIES, WIDTH, padding_idx=PAD),
            "positions": nn.Embedding(LONGEST, WIDTH),
            "layers": nn.TransformerEncoder(layer, LAYERS, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False),
        })
        for table in ("words", "positions"):
            nn.init.normal_(self.text_backbone[table].weight, std=INIT_STD)
        nn.init.zeros_(self.text_backbone["words"].weight[PAD])

    def encode(self, ids: Tensor, token: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.text_backbone
        placed = parts["words"](ids) + parts["positions"].weight[: ids.shape[1]]
        features = parts["layers"](placed, src_key_padding_mask=~token)
        weight = token.unsqueeze(-1).to(features.dtype)
        return features, ~token, (features * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


class WordTokenizer:
    """Captions -> one token id a word. Known words have an id each; all others share what is left of the table, by a checksum."""

    def __init__(self, words: Sequence[str]) -> None:
        self.ids = {word: number for number, word in enumerate(words, start=FIRST_WORD)}
        self.first_other = FIRST_WORD + len(self.ids)
        if self.first_other >= ENTRIES:
            raise UsageError(f"the vocabulary has {len(words)} words; the tiny text encoder takes at most {ENTRIES - FIRST_WORD - 1}.")

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """B captions -> ids [B, T] int64, attention [B, T] with 1 = token, cut at the longest. Raises UsageError for one without a word."""
        rows = [[self._id(word) for word in re.findall(r"[^\W_]+", caption.lower())][:LONGEST] for caption in captions]
        if not all(rows):
            raise UsageError(f"caption {rows.index([])} has no words; write what the person looks like, such as 'the person in red'.")
        longest = max(map(len, rows))
        ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
        return ids, (ids != PAD).long()

    def _id(self, word: str) -> int:
        if word in self.ids:
            return self.ids[word]
        return self.first_other + zlib.crc32(word.encode()) % (ENTRIES - self.first_other)
