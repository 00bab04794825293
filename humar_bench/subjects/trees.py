"""Objects among a model's inputs that hold tensors, dataclasses too, as nodes of torch's trees: found, copied and moved as in tuples.

torch's trees (`torch.utils._pytree`) know tuples, lists and dictionaries, and take anything else for a leaf.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from copyreg import _slotnames
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from humar_bench.errors import MeasurementError

_OF_PYTHON = 1 << 9  # the flag of a class that a class statement made
_LEAVES = (Tensor, torch.nn.Module, type, str, bytes, int, float, complex, type(None))


def make_nodes(value: Any, said: str, inside: tuple[int, ...] = ()) -> bool:
    """Let torch's trees know the class of every object within `value` that holds a tensor; whether there is a tensor at all. Raises
    MeasurementError, with `said` for what made them, for one that holds itself."""
    if isinstance(value, Tensor):
        return True
    if isinstance(value, _LEAVES) or callable(value):
        return False
    parts = list(_held(value))
    if parts and id(value) in inside:
        raise MeasurementError(f"{said} returned a {type(value).__name__} that holds itself; give the model what is in it.")
    found = any([make_nodes(part, said, (*inside, id(value))) for _, part in parts])
    if found and not _is_node(value):
        pytree.register_pytree_node(type(value), _taken_apart, partial(_put_together, type(value)))
        _OURS.add(type(value))
    return found


_OURS: set[type] = set()


def _is_node(value: Any) -> bool:
    return type(value) in pytree.SUPPORTED_NODES or isinstance(value, tuple) and hasattr(value, "_fields")


def _held(value: Any) -> Iterator[tuple[tuple[str, Any], Any]]:
    """(where, part) of a container or an object, where is an 'item', an 'element' or an 'attribute' and which."""
    if isinstance(value, dict):
        yield from ((("item", key), part) for key, part in value.items())
    elif isinstance(value, (list, tuple, deque)):
        yield from ((("element", index), part) for index, part in enumerate(value))
    if type(value) in _OURS or not _is_node(value):
        yield from ((("attribute", name), part) for name, part in list(getattr(value, "__dict__", {}).items()))
        yield from ((("attribute", name), getattr(value, name)) for name in _slotnames(type(value)) if hasattr(value, name))


def _taken_apart(value: Any) -> tuple[list[Any], tuple[Any, ...]]:
    parts = list(_held(value))
    return [part for _, part in parts], tuple(where for where, _ in parts)


def _put_together(kind: type, parts: Any, places: tuple[Any, ...]) -> Any:
    """As an object is copied: no function of its class is called, but for the one that makes it in C."""
    base = next(each for each in kind.__mro__ if not each.__flags__ & _OF_PYTHON)
    rows = list(zip(places, parts, strict=True))
    elements = [part for where, part in rows if where[0] == "element"]
    made = base.__new__(kind, elements) if base is tuple else base.__new__(kind)
    if issubclass(base, (list, deque)):
        base.extend(made, elements)
    for (what, where), part in rows:
        if what == "item":
            base.__setitem__(made, where, part)
        elif what == "attribute":
            object.__setattr__(made, where, part)
    return made
