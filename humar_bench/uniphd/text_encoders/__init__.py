"""Text encoders of the whole model, by name: token ids in, features of tokens and sentence out."""

from __future__ import annotations

import inspect
from typing import Any

from humar_bench.args import TEXT_ENCODERS
from humar_bench.errors import UsageError
from humar_bench.uniphd.text_encoders.encoder import TextEncoder
from humar_bench.uniphd.text_encoders.hugging_face import HuggingFaceTextEncoder
from humar_bench.uniphd.text_encoders.tite import TiteTextEncoder
from humar_bench.uniphd.text_encoders.tokens import Tokenizer, benchmark_ids, load_tokenizer

__all__ = ["TextEncoder", "Tokenizer", "benchmark_ids", "build_text_encoder", "load_tokenizer"]


def build_text_encoder(name: str, **overrides: Any) -> TextEncoder:
    """The text encoder of a name of `TEXT_ENCODERS`, random weights; `overrides` replace values of its configuration.

    `forward(ids [B, T] int64, attention [B, T], 1 = token)` gives features [B, T, D], padding [B, T] (True = padding) and sentence [B, D];
    D is `width`. TITE gives one token. Raises UsageError for an unknown name, an unknown value and where transformers is missing.
    """
    if name not in TEXT_ENCODERS:
        raise UsageError(f"text_encoder is {name!r}; choose one of {', '.join(TEXT_ENCODERS)}.")
    if name != "tite":
        return HuggingFaceTextEncoder(name, **overrides)
    unknown = sorted(set(overrides) - set(inspect.signature(TiteTextEncoder).parameters))
    if unknown:
        raise UsageError(f"tite has no value called {unknown[0]}; it has {', '.join(inspect.signature(TiteTextEncoder).parameters)}.")
    return TiteTextEncoder(**overrides)
