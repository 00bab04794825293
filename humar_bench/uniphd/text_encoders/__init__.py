"""Text encoders of the whole model, by name: token ids in, features of tokens and sentence out."""

from __future__ import annotations

from typing import Any

from torch import nn

from humar_bench.args import TEXT_ENCODERS
from humar_bench.errors import UsageError

__all__ = ["build_text_encoder"]


def build_text_encoder(name: str, **overrides: Any) -> nn.Module:
    """The text encoder of a name of `TEXT_ENCODERS`, random weights; `overrides` replace values of its configuration.

    `forward(ids [B, T] int64, attention [B, T], 1 = token)` gives features [B, T, D], padding [B, T] (True = padding) and sentence [B, D];
    D is `width`. Raises UsageError for an unknown name, an unknown value and where transformers is missing.
    """
    if name not in TEXT_ENCODERS:
        raise UsageError(f"text_encoder is {name!r}; choose one of {', '.join(TEXT_ENCODERS)}.")
    from humar_bench.uniphd.text_encoders.hugging_face import HuggingFaceTextEncoder

    return HuggingFaceTextEncoder(name, **overrides)
