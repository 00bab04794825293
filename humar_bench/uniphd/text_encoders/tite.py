"""TITE, the late form: a text encoder that halves the sequence in its last layers until one vector is left.

Source: TITE: Token-Independent Text Encoder for Information Retrieval (Schlatt et al. 2025); module names are those of its public code. The
size is BERT-base's with learned positions, 108,890,112 parameters; the published rotary weights have no position table and do not load.
Queries are the means of two neighbours, keys and values all tokens of the layer before. Once one token is left it is all that is attended
to, and queries and keys are not computed.

Shapes: B captions, T tokens of a layer's input, U = ceil(T / 2) after pooling, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humar_bench.errors import UsageError
from humar_bench.uniphd.text_encoders.encoder import TextEncoder

INIT_STD, NORM_EPS, DROPOUT = 0.02, 1e-12, 0.1


def pool_pairs(x: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the tokens of every pair: x [B, T, D], token [B, T] bool -> [B, U, D], [B, U]; a pair is a token when one of its two is."""
    odd = x.shape[1] % 2
    x, token = F.pad(x, (0, 0, 0, odd)).unflatten(1, (-1, 2)), F.pad(token, (0, odd)).unflatten(1, (-1, 2))
    weight = token.unsqueeze(-1).to(x.dtype)
    return (x * weight).sum(dim=2) / weight.sum(dim=2).clamp(min=1), token.any(dim=2)


class Attention(nn.Module):
    """Multi-head attention, pooled or not, with residual and LayerNorm after."""

    def __init__(self, width: int, *, heads: int, pooled: bool) -> None:
        super().__init__()
        self.heads, self.pooled = heads, pooled
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, D], token [B, T] -> the same of U tokens where pooled."""
        asking, left = pool_pairs(x, token) if self.pooled and x.shape[1] > 1 else (x, token)
        value = self.value(x)
        if x.shape[1] > 1:
            q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query(asking), self.key(x), value))
            value = F.scaled_dot_product_attention(q, k, v, attn_mask=token[:, None, None]).transpose(1, 2).flatten(2)
        return self.norm(asking + self.dropout(self.dense(value))), left


class Mlp(nn.Module):
    """Feed-forward network with residual and LayerNorm after."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.intermediate_dense = nn.Linear(width, hidden)
        self.out_dense = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.dropout(self.out_dense(F.gelu(self.intermediate_dense(x), approximate="tanh"))))


class Layer(nn.Module):
    def __init__(self, width: int, *, heads: int, hidden: int, pooled: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads=heads, pooled=pooled)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        x, token = self.attention(x, token)
        return self.mlp(x), token


class Embeddings(nn.Module):
    """Word plus position, normalised."""

    def __init__(self, words: int, positions: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(words, width, padding_idx=0)
        self.position_embeddings = nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, ids: Tensor) -> Tensor:
        return self.dropout(self.norm(self.word_embeddings(ids) + self.position_embeddings.weight[: ids.shape[1]]))


class Encoder(nn.Module):
    def __init__(self, layers: list[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        """x [B, T, D], token [B, T] -> [B, 1, D]."""
        for layer in self.layers:
            x, token = layer(x, token)
        return x


class TiteModel(nn.Module):
    """Token ids [B, T], token [B, T] bool -> [B, 1, D]."""

    def __init__(self, *, words: int, width: int, layers: int, heads: int, hidden: int, positions: int) -> None:
        super().__init__()
        poolings = (positions - 1).bit_length()  # halvings that leave one of the longest caption
        self.embeddings = Embeddings(words, positions, width)
        self.encoder = Encoder([Layer(width, heads=heads, hidden=hidden, pooled=i >= layers - poolings) for i in range(layers)])
        self.apply(self._reset)

    @staticmethod
    def _reset(module: nn.Module) -> None:
        """As BERT: normal with 0.02, biases 0."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=INIT_STD)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])

    def forward(self, ids: Tensor, token: Tensor) -> Tensor:
        return self.encoder(self.embeddings(ids), token)


class TiteTextEncoder(TextEncoder):
    """One vector, which is the only token, never padding, and the sentence."""

    pad_id = 0

    def __init__(
        self,
        *,
        vocab_size: int = 30522,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        max_position_embeddings: int = 512,
    ) -> None:
        """Raises UsageError when the layers cannot halve the longest caption down to one token."""
        super().__init__()
        if num_hidden_layers < (poolings := (max_position_embeddings - 1).bit_length()):
            raise UsageError(
                f"num_hidden_layers is {num_hidden_layers}; {max_position_embeddings} positions are halved to one in {poolings} layers, "
                "so take at least as many."
            )
        self.width, self.max_tokens, self.vocabulary = hidden_size, max_position_embeddings, vocab_size
        self.text_backbone = TiteModel(
            words=vocab_size, width=hidden_size, layers=num_hidden_layers, heads=num_attention_heads, hidden=intermediate_size,
            positions=max_position_embeddings,
        )

    def encode(self, ids: Tensor, token: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.text_backbone(ids, token)
        return features, torch.zeros(features.shape[:2], dtype=torch.bool, device=features.device), features[:, 0]
