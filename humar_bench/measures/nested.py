"""Tensors inside nested containers: found, and swapped."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from copyreg import _slotnames
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import SUPPORTED_NODES, tree_map_only


def tensors_in(value: Any, _depth: int = 0) -> Iterator[Tensor]:
    """Every tensor inside nested containers, dataclasses and plain objects."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part, _depth)
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        for part in value:
            yield from tensors_in(part, _depth)
    elif hasattr(value, "__dict__") or hasattr(type(value), "__slots__"):
        if _depth < 4 and not isinstance(value, (type, nn.Module)) and not callable(value):
            yield from tensors_in(getattr(value, "__dict__", {}), _depth + 1)
            yield from tensors_in([getattr(value, key, None) for key in _slotnames(type(value))], _depth + 1)


def replaced(value: Any, swap: Callable[[Tensor], Any]) -> Any:
    """The same nested lists, tuples, dictionaries and nodes of torch's trees with every tensor swapped."""
    if isinstance(value, Tensor):
        return swap(value)
    if isinstance(value, dict):
        swapped = copy.copy(value)
        swapped.update((key, replaced(part, swap)) for key, part in value.items())
        return swapped
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(replaced(part, swap) for part in value))
    if isinstance(value, (list, tuple)):
        return type(value)(replaced(part, swap) for part in value) if value else value
    if type(value) in SUPPORTED_NODES:  # an object that torch's trees were told of
        return tree_map_only(Tensor, swap, value)
    return value
