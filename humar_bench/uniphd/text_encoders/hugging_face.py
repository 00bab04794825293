"""The published text encoders, through `transformers`, each from its configuration with random weights.

Sources: RoBERTa (Liu et al. 2019), MiniLM (Wang et al. 2020), DistilBERT (Sanh et al. 2019), TinyBERT (Jiao et al. 2020), ALBERT (Lan et
al. 2020), MobileBERT (Sun et al. 2020).

Shapes: B captions, T tokens, D width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from humar_bench.errors import UsageError
from humar_bench.uniphd.library import from_transformers


class Published(NamedTuple):
    """How one text encoder is built, and what its sentence vector is."""

    family: str  # of its classes in transformers
    config: dict[str, Any]
    sentence: str  # "pooler": the pooled first token; "mean": of the tokens that are no padding
    reserved: int = 0  # rows of the position table that no token uses


PUBLISHED = {
    "roberta": Published("Roberta", {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}, "pooler", reserved=2),
    "minilm": Published("Bert", {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}, "mean"),
    "distilbert": Published("DistilBert", {}, "mean"),
    "tinybert": Published(
        "Bert", {"hidden_size": 312, "num_hidden_layers": 4, "num_attention_heads": 12, "intermediate_size": 1200}, "pooler"
    ),
    "albert": Published(
        "Albert",
        {
            "vocab_size": 30000, "embedding_size": 128, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
        "pooler",
    ),
    "mobilebert": Published("MobileBert", {}, "pooler"),
}


class HuggingFaceTextEncoder(nn.Module):
    """Token ids -> features of every token and of the sentence. `width` is D, `max_tokens` the longest T."""

    def __init__(self, name: str, **overrides: Any) -> None:
        """`overrides` replace values of the model's configuration, by the names of transformers. Raises UsageError."""
        super().__init__()
        family, config, self.sentence, reserved = PUBLISHED[name]
        config_class, model_class = from_transformers(f"{family}Config", f"{family}Model")
        unknown = sorted(key for key in overrides if not hasattr(config_class(), key))
        if unknown:
            raise UsageError(f"{family}Config has no value called {unknown[0]}; take one of its own names for {name}.")
        config = config_class(**{**config, **overrides}, attn_implementation="sdpa")
        self.width: int = config.hidden_size
        self.max_tokens: int = config.max_position_embeddings - reserved
        self.vocabulary: int = config.vocab_size
        self.text_backbone = model_class(config)

    def forward(self, ids: Tensor, attention: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ids [B, T] int64, attention [B, T] with 1 = token -> features [B, T, D], padding [B, T] (True = padding), sentence [B, D].

        Raises UsageError when T is more than `max_tokens`.
        """
        if ids.shape[1] > self.max_tokens:
            raise UsageError(f"a caption has {ids.shape[1]} tokens; this text encoder takes at most {self.max_tokens}.")
        token = attention == 1
        # As a ready mask [B, 1, 1, T]: from one of [B, T] transformers asks the device whether all are tokens.
        out = self.text_backbone(ids, attention_mask=token[:, None, None])
        features = out.last_hidden_state
        if self.sentence == "pooler":
            return features, ~token, out.pooler_output
        weight = token.unsqueeze(-1).to(features.dtype)
        return features, ~token, torch.sum(features * weight, dim=1) / weight.sum(dim=1).clamp(min=1)
