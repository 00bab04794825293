"""What is measured: how a model is built around an architecture, what its forward is given, what its outputs must be.

A subject is one file with one class; `SUBJECTS` names it, and its workload (`args.py`) says which one a request is about.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from humar_bench.args import ModelArgs, Workload
from humar_bench.errors import MeasurementError
from humar_bench.subjects.registry import Architecture

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SUBJECTS = {
    "transformer": "humar_bench.subjects.transformer:TransformerSubject",
    "uniphd": "humar_bench.subjects.uniphd:UniphdSubject",
    "free": "humar_bench.subjects.free:FreeSubject",
}


class NotFiniteOutputs(MeasurementError):
    """A model whose outputs hold NaN or infinity."""


class Subject:
    """One kind of model on one workload. A model says itself what its components are called (`measures/components.py`)."""

    parts: Callable[[Any], Any] | None = None  # outputs -> fields of `measures.agreement.Parts`; None: those of the shared call
    scales = (0.8, 0.4)  # renewed numbers are scaled by the first of these and up to the second more
    called_with = "srcs, masks, pos_embeds, query_embed"  # for a sentence about a forward that takes something else

    def __init__(self, args: ModelArgs, workload: Workload) -> None:
        self.args, self.workload = args, workload

    def of(self, architecture: Architecture) -> Subject:
        """The subject for one architecture: another one where it has parts of its own around it."""
        return self

    def build(self, architecture: Architecture, *, device: str, dtype: torch.dtype, seed: int) -> torch.nn.Module:
        """The model in eval mode, weights drawn from `seed`; nothing is allocated on meta and under a fake tensor mode."""
        raise NotImplementedError

    def inputs(self, *, device: str, dtype: torch.dtype, seed: int) -> Sequence[Any]:
        """What the model is called with by position; a `Keywords` at the end holds what is given by name."""
        raise NotImplementedError

    def check(self, outputs: Any, *, name: str) -> None:
        """Hold the outputs of the model called `name` against what they must be. Raises MeasurementError."""
        raise NotImplementedError

    def plain(self, outputs: Any) -> Any:
        """The outputs in containers that torch can walk through, so that they can be copied."""
        return outputs

    def renewed(self, inputs: Sequence[Any]) -> list[tuple[Tensor, int]] | None:
        """What changes from one forward on unseen inputs to the next: tensors, and the dimension along which each is moved on by one; None
        where `inputs` has to make them with another seed."""
        raise NotImplementedError


def subject_of(args: ModelArgs, workload: Workload) -> Subject:
    """The subject that a workload is of: the transformer unless it says otherwise."""
    module, _, name = SUBJECTS[getattr(workload, "subject", "transformer")].partition(":")
    return getattr(importlib.import_module(module), name)(args, workload)
