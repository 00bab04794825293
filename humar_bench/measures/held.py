"""Tensors that a model holds and does not register: in a list, a dictionary, an attribute, a closure, a partial, a global of its file.

No parameter, no buffer: `state_dict` does not save them, `to` does not move them, and a count of parameters does not see them.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping
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
            tensors = list(_unpacked(value)) if isinstance(value, torch.ScriptObject) else []
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
    for part in parts if isinstance(parts, (list, tuple)) else (parts,):
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, torch.ScriptObject):
            yield from _unpacked(part)
        elif isinstance(part, (list, tuple)):
            for each in part:
                yield from (each,) if isinstance(each, Tensor) else _unpacked(each) if isinstance(each, torch.ScriptObject) else ()


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
        yield from _globals(type(value).forward)
    elif isinstance(value, Mapping):
        for key, part in list(value.items()):
            yield f"[{key!r}]" if isinstance(key, (str, int)) else "[...]", part
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, part in enumerate(list(value)):
            yield f"[{index}]", part
    elif isinstance(value, functools.partial):
        yield "", value.func
        yield from ((f".args[{index}]", part) for index, part in enumerate(value.args))
        yield from ((f".keywords[{key!r}]", part) for key, part in value.keywords.items())
    elif isinstance(value, types.MethodType):
        yield "", value.__self__
    elif isinstance(value, types.FunctionType):
        for key, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
            if cell is not None and _filled(cell):
                yield f".{key}", cell.cell_contents
        yield from ((f".{key}", part) for key, part in (value.__kwdefaults__ or {}).items())
        yield from ((f".default[{index}]", part) for index, part in enumerate(value.__defaults__ or ()))
        yield from _globals(value)
    elif type(value).__module__.partition(".")[0] not in ("torch", "builtins", "numpy") and hasattr(value, "__dict__"):
        yield from ((f".{key}", part) for key, part in list(vars(value).items()))


def _globals(function: Any) -> Iterator[tuple[str, Any]]:
    """Tensors, modules and containers that a function names and that stand in its file."""
    code, names = getattr(function, "__code__", None), getattr(function, "__globals__", None)
    if code is None or names is None or str(names.get("__name__", "")).partition(".")[0] == "torch":
        return
    for key in code.co_names:
        if isinstance(part := names.get(key), (Tensor, nn.Module, list, tuple, dict)):
            yield f".{key}", part


def _filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
