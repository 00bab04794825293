"""What several backends share: tensors of nested inputs in one order, and bytes."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def leaves(inputs: Any) -> list[Tensor]:
    """The tensors of the four inputs in the order of the call, whatever holds them."""
    return pytree.tree_leaves(plain(inputs))


def plain(inputs: Any) -> tuple[Any, ...]:
    """The inputs as a tuple of lists and a tensor: a graph is exported for containers of one kind."""
    return tuple(list(each) if isinstance(each, (list, tuple)) else each for each in inputs)


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
