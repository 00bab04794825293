"""The published text encoders, through `transformers`, each from its configuration with random weights.

Sources: RoBERTa (Liu et al. 2019), MiniLM (Wang et al. 2020), DistilBERT (Sanh et al. 2019), TinyBERT (Jiao et al. 2020), ALBERT (Lan et
al. 2020), MobileBERT (Sun et al. 2020).

Shapes: B captions, T tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from humar_bench.errors import UsageError
from humar_bench.uniphd.library import from_transformers
from humar_bench.uniphd.text_encoders.encoder import TextEncoder


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


class HuggingFaceTextEncoder(TextEncoder):
    """A published encoder. MiniLM keeps the pooler of its checkpoints, which nothing reads."""

    def __init__(self, name: str, **overrides: Any) -> None:
        """`overrides` replace values of the model's configuration, by the names of transformers. Raises UsageError."""
        super().__init__()
        family, published, self.sentence, reserved = PUBLISHED[name]
        config_class, model_class = from_transformers(f"{family}Config", f"{family}Model")
        unknown = sorted(key for key in overrides if not hasattr(config_class(), key))
        if unknown:
            raise UsageError(f"{family}Config has no value called {unknown[0]}; take one of its own names for {name}.")
        config = config_class(**{**published, **overrides}, attn_implementation="sdpa")
        self.width, self.vocabulary, self.pad_id = config.hidden_size, config.vocab_size, config.pad_token_id
        self.max_tokens = config.max_position_embeddings - reserved
        self.text_backbone = model_class(config)

    def encode(self, ids: Tensor, token: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # As a ready mask [B, 1, 1, T]: from one of [B, T] transformers asks the device whether all are tokens.
        out = self.text_backbone(ids, attention_mask=token[:, None, None])
        features = out.last_hidden_state
        if self.sentence == "pooler":
            return features, ~token, out.pooler_output
        weight = token.unsqueeze(-1).to(features.dtype)
        return features, ~token, (features * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
