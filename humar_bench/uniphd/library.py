"""The door to `transformers`: imported when a model of it is built, never before."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from humar_bench.errors import UsageError

EXTRA = 'pip install "humar-bench[model]"'


def from_transformers(*names: str) -> list[Any]:
    """The classes of `transformers` of these names. Raises UsageError where it is missing or cannot import them."""
    if importlib.util.find_spec("transformers") is None:
        raise UsageError(f"{names[0]} comes from the package transformers, which is not installed; run {EXTRA}.")
    library = importlib.import_module("transformers")
    try:
        return [getattr(library, name) for name in names]
    except (ImportError, AttributeError) as error:  # it looks for torchvision, and stops at one that was built for another torch
        hint = f"install the version this package was tested with: {EXTRA}"
        if importlib.util.find_spec("torchvision") is not None:
            hint = "an installed torchvision that cannot be imported is the usual cause: uninstall it, or install one built for this torch"
        raise UsageError(f"transformers cannot import {' and '.join(names)} ({str(error).splitlines()[0]}); {hint}.") from error
