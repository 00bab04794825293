"""What several backends share: tensors of nested inputs in one order, and bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from humar_bench.args import Keywords


def split(inputs: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a model is given by position, and by name: of inputs with a `Keywords` at their end."""
    given = tuple(inputs)
    return (given[:-1], dict(given[-1])) if given and isinstance(given[-1], Keywords) else (given, {})


def leaves(values: Any) -> list[Tensor]:
    """The tensors of a call's inputs, or of its outputs, in their order, whatever holds them."""
    return [each for each in pytree.tree_leaves(values) if isinstance(each, Tensor)]


class _Counter(io.RawIOBase):
    """A file that only counts what is written."""

    def __init__(self) -> None:
        self.bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.bytes += len(data)
        return len(data)


def saved_bytes(model: torch.nn.Module) -> int:
    """What the model's state dict takes as a file; nothing is written."""
    counter = _Counter()
    torch.save(model.state_dict(), counter)
    return counter.bytes


def folder_bytes(folder: str | os.PathLike) -> int:
    return sum(each.stat().st_size for each in Path(folder).rglob("*") if each.is_file())
