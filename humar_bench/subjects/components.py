"""The parts of a foreign transformer, under the names of the built-in ones where it shares their interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from humar_bench.skeleton.pose_transformer import COMPONENTS


def name_components(model: torch.nn.Module) -> None:
    """Let a foreign model's parts that carry the names of the shared interface (`level_embed`, `decoder.pose_embed`, `enc_output`, ...) be
    called as those of the built-in ones are, so that rows line up.

    Sets `model.components`, as a model does that names its parts itself; one that does is left as it is, and so is one without such a part.
    A part with a name of its own keeps it.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
    if hasattr(model, "components"):
        return
    shared = tuple(pair for pair in COMPONENTS if pair[0] and _has(model, pair[0]))
    if shared:
        own = tuple((name, name) for name, _ in model.named_children() if name not in dict(shared))
        model.components = (("", dict(COMPONENTS)[""]), *own, *shared)


def _has(model: torch.nn.Module, path: str) -> bool:
    """Whether there is a module, parameter or buffer at a path."""
    found: Any = model
    for part in path.split("."):
        found = getattr(found, part, None) if isinstance(found, torch.nn.Module) else None
    return isinstance(found, (torch.nn.Module, Tensor))
