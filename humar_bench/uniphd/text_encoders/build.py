"""From a name to its text encoder."""

from __future__ import annotations

import inspect
from typing import Any

from humar_bench.args import SMALL_TEXT_ENCODERS, TEXT_ENCODERS
from humar_bench.errors import UsageError
from humar_bench.uniphd.text_encoders.encoder import TextEncoder
from humar_bench.uniphd.text_encoders.hugging_face import HuggingFaceTextEncoder
from humar_bench.uniphd.text_encoders.tiny import TinyTextEncoder
from humar_bench.uniphd.text_encoders.tite import TiteTextEncoder


def build_text_encoder(name: str, **overrides: Any) -> TextEncoder:
    """The text encoder of a name of `TEXT_ENCODERS` or `SMALL_TEXT_ENCODERS`, random weights; `overrides` replace values of a published
    one's configuration.

    `forward(ids [B, T] int64, attention [B, T], 1 = token)` gives features [B, T, D], padding [B, T] (True = padding) and sentence [B, D];
    D is `width`. TITE gives one token. Raises UsageError for an unknown name, an unknown value and where transformers is missing.
    """
    if name in SMALL_TEXT_ENCODERS:
        return TinyTextEncoder()
    if name not in TEXT_ENCODERS:
        raise UsageError(f"text_encoder is {name!r}; choose one of {', '.join((*TEXT_ENCODERS, *SMALL_TEXT_ENCODERS))}.")
    if name != "tite":
        return HuggingFaceTextEncoder(name, **overrides)
    unknown = sorted(set(overrides) - set(inspect.signature(TiteTextEncoder).parameters))
    if unknown:
        raise UsageError(f"tite has no value called {unknown[0]}; it has {', '.join(inspect.signature(TiteTextEncoder).parameters)}.")
    return TiteTextEncoder(**overrides)
