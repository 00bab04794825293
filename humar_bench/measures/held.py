"""Tensors that a model holds and does not register: in a list, a dictionary, an attribute, a closure, a partial, a global of its file.

No parameter, no buffer: `state_dict` does not save them, `to` does not move them, and a count of parameters does not see them. What is
kept where nobody looks (in an object of C, by a thread) shows when an operator reads it (`trace.py`).
"""

from __future__ import annotations

import functools
import types
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from copyreg import _slotnames  # what an object's class holds beside its `__dict__`, as copies and pickles have it
from typing import Any

import torch
from torch import Tensor, nn

MOST_VISITED = 200_000  # things that are looked into; a model that holds more than that is not told about
DEEPEST = 40
_OWN = {"_parameters", "_buffers", "_modules"}  # registered: walked through as such
_PLAIN = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType, types.BuiltinFunctionType)


def held_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Name -> every tensor within reach of `model` that is neither a parameter nor a buffer of it, each once; a name says the way there:
    `layers[0].weight`, `cache['k']`."""
    registered = {id(each) for each in (*model.parameters(), *model.buffers())}
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in _within(model, "", seen, 0):
        if id(value) not in registered:
            found.setdefault(name, value)
    return found


def packed_weights(model: nn.Module) -> list[tuple[str, int, int, str]]:
    """(name, weights, bytes, kind) of what torch's quantised modules hold in objects of their own, biases with them."""
    found = []
    for path, module in model.named_modules():
        for key, value in vars(module).items():
            inside = list(_unpacked(value)) if isinstance(value, torch.ScriptObject) else []
            tensors = list({(each.data_ptr(), each.numel(), each.dtype): each for each in inside}.values())  # a cell has its biases twice
            if tensors:
                sizes = [each.numel() * each.element_size() for each in tensors]
                kind = str(next((each.dtype for each in tensors if each.is_quantized), tensors[0].dtype)).removeprefix("torch.")
                found.append((f"{path}.{key}".lstrip("."), sum(each.numel() for each in tensors), sum(sizes), kind))
    return found


def _unpacked(packed: Any) -> Iterator[Tensor]:
    """The tensors in one of torch's packed objects; none in an object that is something else."""
    unpack = getattr(packed, "unpack", None)
    try:
        parts = packed.__getstate__() if unpack is None else unpack()
    except Exception:  # whatever an object that is no weight raises
        return
    yield from _among(parts)


def _among(part: Any) -> Iterator[Tensor]:
    """A recurrent cell's state is a tuple of lists of packed matrices."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, torch.ScriptObject):
        yield from _unpacked(part)
    elif isinstance(part, (list, tuple)):
        for each in part:
            yield from _among(each)


def _within(value: Any, name: str, seen: set[int], depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, _PLAIN) or id(value) in seen or len(seen) > MOST_VISITED or depth > DEEPEST:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield name, value
        return
    for place, part in _parts(value):
        yield from _within(part, f"{name}{place}" if name else place.lstrip("."), seen, depth + 1)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a thing holds, and how one says so."""
    if isinstance(value, nn.Module):
        for kind in ("_parameters", "_buffers", "_modules"):
            for key, part in dict(value.__dict__.get(kind) or {}).items():
                yield f".{key}", part
        for key, part in list(value.__dict__.items()):
            if key not in _OWN:
                yield f".{key}", part
        yield from _named_by(getattr(type(value), "forward", None))  # a scripted one's class has none to look at
    elif isinstance(value, Mapping):
        for key, part in list(value.items()):
            yield f"[{key!r}]" if isinstance(key, (str, int)) else "[...]", part
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        for index, part in enumerate(list(value)):
            yield f"[{index}]", part
    elif isinstance(value, functools.partial):
        yield "", value.func
        yield from ((f".args[{index}]", part) for index, part in enumerate(value.args))
        yield from ((f".keywords[{key!r}]", part) for key, part in value.keywords.items())
    elif isinstance(value, types.MethodType):
        yield "", value.__self__
    elif isinstance(value, types.FunctionType):
        yield from _named_by(value)
    elif isinstance(value, weakref.ref):
        yield "", value()
    elif type(value).__module__.partition(".")[0] not in ("torch", "builtins", "numpy"):
        yield from ((f".{key}", part) for key, part in list(getattr(value, "__dict__", {}).items()))
        for key in _slotnames(type(value)):
            yield f".{key}", getattr(value, key, None)


def _named_by(function: Any) -> Iterator[tuple[str, Any]]:
    """What a function closes over, what its arguments are by default, and those things of its file that it names and that may hold tensors:
    tensors, modules, containers, and what a class of the file has for an attribute that is named too."""
    code, names = getattr(function, "__code__", None), getattr(function, "__globals__", None)
    if code is None or names is None or str(names.get("__name__", "")).partition(".")[0] == "torch":
        return
    for key, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        if cell is not None and _filled(cell):
            yield f".{key}", cell.cell_contents
    yield from ((f".{key}", part) for key, part in (function.__kwdefaults__ or {}).items())
    yield from ((f".default[{index}]", part) for index, part in enumerate(function.__defaults__ or ()))
    for key in code.co_names:
        part = names.get(key)
        if isinstance(part, (Tensor, nn.Module, list, tuple, dict, deque)):
            yield f".{key}", part
        elif isinstance(part, type):
            yield from ((f".{key}.{name}", each) for name in code.co_names if isinstance(each := vars(part).get(name), (Tensor, nn.Module)))


def _filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
