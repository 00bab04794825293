"""Anybody's model as a subject: called with what a function of theirs makes, its outputs any tree of tensors.

Shapes are the function's; the workload's batch is what its numbers are divided by.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from copyreg import _slotnames
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils import _pytree as pytree

from humar_bench.args import FreeWorkload, Keywords, ModelArgs
from humar_bench.errors import MeasurementError, UsageError, one_line
from humar_bench.subjects.loading import literals, load, place_of
from humar_bench.subjects.making import made
from humar_bench.subjects.registry import INPUTS_WANTED, Architecture, load_builder
from humar_bench.subjects.subject import NotFiniteOutputs, Subject
from humar_bench.subjects.trees import make_nodes

OFFERED = ("batch", "workload", "args", "device", "seed")
_KINDS = "a tensor, a tuple (by position), a dict (by name) or a pair (args, kwargs)"
DEEPEST = 20  # containers within each other among inputs and outputs


class FreeSubject(Subject):
    """A model of somebody, on inputs of somebody."""

    workload: FreeWorkload
    scales = (0.6, 0.4)  # only smaller: a function's numbers may have a highest one

    def __init__(self, args: ModelArgs, workload: FreeWorkload) -> None:
        super().__init__(args, workload)
        self._default = torch.get_default_dtype()  # before any model changed it for everybody

    def build(self, architecture: Architecture, *, device: str, dtype: torch.dtype, seed: int) -> torch.nn.Module:
        builder = load_builder(architecture, free=True)
        model = made(architecture.name, lambda: builder(self.args), device=device, dtype=dtype, seed=seed)
        return _with_components(model, self.workload.components, architecture.name)

    def inputs(self, *, device: str, dtype: torch.dtype, seed: int) -> tuple[Any, ...]:
        """On meta and under a fake tensor mode the function runs for real, on the CPU, and its tensors' likes are given; on meta whole
        numbers and flags are real ones, since a model may look at their values (`measures/trace.py`)."""
        with unset_fake_temporarily() as fake:
            real = "cpu" if fake is not None or torch.device(device).type == "meta" else device
            given = self._given(real, seed)

        def placed(tensor: Tensor) -> Tensor:
            wanted = dtype if tensor.is_floating_point() and dtype is not torch.float32 else tensor.dtype
            if not _has_strides(tensor) or fake is None and (real == device or not tensor.is_floating_point()):
                return tensor.to(device=real, dtype=wanted)
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=wanted, device=device)

        positional, named = pytree.tree_map_only(Tensor, placed, given)
        return (*positional, Keywords(named)) if named else tuple(positional)

    def check(self, outputs: Any, *, name: str) -> None:
        """There are tensors, plain ones, and every number in them is finite."""
        found = tensors_of(outputs)
        if not found:
            raise MeasurementError(
                f"{name} returned a {type(outputs).__name__} without a tensor in it, so that there is nothing to compare; return tensors, "
                "alone or in tuples, dicts and dataclasses."
            )
        for part, tensor in found.items():
            if tensor.device.type == "meta":
                continue
            if type(tensor).__module__.partition(".")[0] != "torch":
                raise MeasurementError(
                    f"{name} returned {part} as a {type(tensor).__name__}; it must be a plain tensor, whose numbers are there when it "
                    "returns."
                )
            numbers = _plain(tensor)
            if not bool(torch.isfinite(numbers).all()):
                bad = int((~torch.isfinite(numbers)).sum())
                raise NotFiniteOutputs(f"{name} returned {part} with {bad} of {numbers.numel()} numbers NaN or infinite.")

    def plain(self, outputs: Any) -> dict[str, Tensor]:
        return {name: _plain(tensor) for name, tensor in tensors_of(outputs).items()}

    def parts(self, outputs: Any) -> dict[str, Any]:
        """All of them whole: nothing is selected."""
        nothing = torch.zeros(0)
        return {"points": nothing, "embedding": nothing, "rows": {}, "later": {}, "whole": self.plain(outputs)}

    def renewed(self, inputs: Sequence[Any]) -> list[tuple[Tensor, int]] | None:
        """None where the function's numbers follow the seed; else its floating-point tensors, else its whole numbers, along their longest
        side. Raises MeasurementError where that changes nothing."""
        if self._follows_the_seed:
            return None
        movable = [each for each in _leaves(inputs) if _can_be_moved(each)]
        chosen = [each for each in movable if each.is_floating_point()] or [each for each in movable if each.unique().numel() > 1]
        if not chosen:
            raise MeasurementError(
                f"{self.workload.inputs} gives the same numbers whatever the seed, so that no forward would be on inputs it has not seen; "
                "draw them by torch's random functions, or let the function take seed."
            )
        return [(each, max(range(each.dim()), key=each.size)) for each in chosen]

    @property
    def called_with(self) -> str:
        return f"what {self.workload.inputs} gives{self._described}"

    # The function ----------------------------------------------------------------------------------------------------------------------

    _described = ""
    _layout: Any = None

    @functools.cached_property
    def _function(self) -> Callable[..., Any]:
        place = place_of(self.workload.inputs)
        found = load(place, INPUTS_WANTED)
        if place.given is None:
            return found
        positional, named = literals(place.given, self.workload.inputs)
        return functools.partial(found, *positional, **named)

    @functools.cached_property
    def _follows_the_seed(self) -> bool:
        one, other = (_leaves(self._given("cpu", seed)) for seed in (1, 2))
        return not all(torch.equal(_plain(a), _plain(b)) for a, b in zip(one, other, strict=True))

    def _given(self, device: str, seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) for a seed, as the function made them. Raises UsageError, MeasurementError."""
        said = self.workload.inputs
        call = self._call(device, seed)
        try:
            with _drawing(seed, device), _default_type(self._default):
                found = call()
        except (Exception, SystemExit) as error:
            raise MeasurementError(f"{said} raised {one_line(error)}.") from error
        positional, named = pytree.tree_map_only(Tensor, _own_copy, _as_call(found, said))
        self._described = f" ({_words(positional, named)})"
        layout = [(tuple(each.shape), each.dtype) for each in _leaves((positional, named))]
        if self._layout not in (None, layout):
            was, now = next((a, b) for a, b in zip((*self._layout, None), (*layout, None), strict=False) if a != b)
            raise MeasurementError(
                f"{said} gives {_look(was)} for one seed and {_look(now)} for another; let shapes and number types follow the batch alone."
            )
        self._layout = layout
        return positional, named

    def _call(self, device: str, seed: int) -> Callable[[], Any]:
        """The function with what it asks for. Raises UsageError."""
        function, said = self._function, self.workload.inputs
        offered = dict(zip(OFFERED, (self.workload.batch, self.workload, self.args, torch.device(device), seed), strict=True))
        try:
            parameters = dict(inspect.signature(function).parameters)
        except (TypeError, ValueError):  # written in C
            return lambda: function(self.workload.batch)
        own = getattr(function, "keywords", {}) if isinstance(function, functools.partial) else {}
        named = {name: offered[name] for name, each in parameters.items() if name in offered and name not in own and each.kind in _NAMED}
        free = [name for name, each in parameters.items() if name not in named and each.kind in _PLACED]
        required = [name for name in free[:1] if parameters[name].default is inspect.Parameter.empty]
        positional = () if {"batch", "workload"} & {*named, *own} or not required else (self.workload.batch,)
        left = [name for name in free[len(positional) :] if parameters[name].default is inspect.Parameter.empty]
        left += [name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY and name not in named
                 and each.default is inspect.Parameter.empty]
        if left:
            raise UsageError(f"{said} takes {left[0]}, and what can be asked for is {', '.join(OFFERED)}; give its parameters these names.")
        if not positional and not {"batch", "workload"} & {*named, *own}:
            raise UsageError(f"{said} takes neither batch nor workload, so that what it gives cannot follow --batch; let it take batch.")
        return functools.partial(function, *positional, **named)


def _own_copy(tensor: Tensor) -> Tensor:
    """In memory of its own: a function may give the same tensors each time."""
    return tensor.detach().clone()


_PLACED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _as_call(found: Any, said: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) of what a function made. Raises MeasurementError."""
    positional, named = (), {}
    if isinstance(found, Tensor):
        positional = (found,)
    elif isinstance(found, Mapping):
        named = dict(found)
    elif isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], tuple) and isinstance(found[1], Mapping):
        positional, named = found[0], dict(found[1])
    elif isinstance(found, tuple):
        positional = tuple(found)
    else:
        hint = "; an object that is one argument stands in a tuple: (it,)"
        if isinstance(found, list):
            hint = "; a list that is one argument stands in a tuple: (the_list,), one of several arguments is tuple(the_list)"
        elif type(found).__module__ == "numpy":
            hint = "; torch.from_numpy makes a tensor of an array"
        raise MeasurementError(f"{said} returned a {type(found).__name__}; it must return {_KINDS}{hint}.")
    if _too_deep((positional, named)):
        raise MeasurementError(f"{said} returned containers more than {DEEPEST} deep within each other; make them flatter.")
    make_nodes((positional, named), said)
    if odd := [name for name in named if not isinstance(name, str)]:
        raise MeasurementError(f"{said} returned a dict with the key {odd[0]!r}; a dict gives arguments by their names.")
    tensors = _leaves((positional, named))
    if not tensors:
        raise MeasurementError(f"{said} returned no tensor; it must return {_KINDS}.")
    if any(each.device.type == "meta" for each in tensors):
        raise MeasurementError(f"{said} returned a tensor on the device meta, which has no numbers; make it on the CPU.")
    return positional, named


def _too_deep(tree: Any) -> bool:
    """Whether containers lie within each other deeper than anybody's arguments, perhaps within themselves; looked at level by level, as
    often as a level holds new ones."""
    level = [tree]
    for _ in range(DEEPEST):
        inside = (inner for each in level for inner in (each.values() if isinstance(each, Mapping) else each))
        level = list({id(inner): inner for inner in inside if isinstance(inner, (Mapping, list, tuple))}.values())
        if not level:
            return False
    return True


def _leaves(tree: Any) -> list[Tensor]:
    """The tensors of some inputs; what is given by name is the last of them, where there is any."""
    plain = [dict(each) if isinstance(each, Keywords) else each for each in tree]
    return [each for each in pytree.tree_leaves(plain) if isinstance(each, Tensor)]


def _words(positional: tuple[Any, ...], named: Mapping[str, Any]) -> str:
    """'2 by position and mask by name'."""
    said = [f"{len(positional)} by position"] if positional else []
    return " and ".join([*said, f"{', '.join(named)} by name"] if named else said)


def _look(one: Any) -> str:
    if one is None:
        return "no further tensor"
    return f"a tensor of shape {list(one[0])} and {str(one[1]).removeprefix('torch.')}"


def _has_strides(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_nested


def _can_be_moved(tensor: Tensor) -> bool:
    """Whether values can be written into a tensor, in their places; flags are no values."""
    plain = _has_strides(tensor) and tensor.dim() and tensor.numel()
    overlaps = plain and any(stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return bool(plain) and not overlaps and tensor.dtype is not torch.bool


@contextlib.contextmanager
def _default_type(dtype: torch.dtype) -> Iterator[None]:
    """torch's default number type inside; outside it is what somebody made it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _drawing(seed: int, device: str) -> Iterator[None]:
    """Everybody's random numbers start from a seed inside and go on as before outside."""
    numpy = sys.modules.get("numpy")
    kept, arrays = random.getstate(), numpy and numpy.random.get_state()
    cuda = list(range(torch.cuda.device_count())) if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        random.seed(seed)
        if numpy:
            numpy.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(kept)
            if numpy:
                numpy.random.set_state(arrays)


# Outputs -------------------------------------------------------------------------------------------------------------------------------


def tensors_of(outputs: Any) -> dict[str, Tensor]:
    """Name -> every tensor in tuples, lists, dictionaries, dataclasses and plain objects, each with the way there: 'logits', 'layers[0].x';
    'output' where there is nothing around it."""
    return {name or "output": tensor for name, tensor in _walk(outputs, "", set(), 0)}


def _walk(value: Any, name: str, seen: set[int], depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
        return
    if depth > DEEPEST or id(value) in seen or isinstance(value, _NO_CONTAINER):
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        parts = [(f".{key}" if isinstance(key, str) else f"[{key!r}]", each) for key, each in value.items()]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = [(f".{key}", each) for key, each in value._asdict().items()]
    elif isinstance(value, (list, tuple, deque)):
        parts = [(f"[{index}]", each) for index, each in enumerate(value)]
    elif dataclasses.is_dataclass(value):
        parts = [(f".{each.name}", getattr(value, each.name, None)) for each in dataclasses.fields(value)]
    elif callable(value):
        return
    else:
        parts = [(f".{key}", each) for key, each in getattr(value, "__dict__", {}).items()]
        parts += [(f".{key}", getattr(value, key, None)) for key in _slotnames(type(value))]
    for place, each in parts:
        yield from _walk(each, f"{name}{place}" if name else place.removeprefix("."), seen, depth + 1)


_NO_CONTAINER = (str, bytes, int, float, complex, type(None), type, types.ModuleType, torch.nn.Module)


def _plain(tensor: Tensor) -> Tensor:
    """A tensor's numbers as an ordinary one: of a sparse, jagged, quantised or complex one too."""
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.is_nested:
        tensor = tensor.values() if tensor.layout is torch.jagged else torch.nested.to_padded_tensor(tensor, 0.0)
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


# Components ----------------------------------------------------------------------------------------------------------------------------


def _with_components(model: torch.nn.Module, asked: Sequence[tuple[str, Sequence[str]]], name: str) -> torch.nn.Module:
    """The model with the names that were asked for its parts. Raises MeasurementError where none of them is one of its."""
    if not asked:
        return model
    pairs = tuple((prefix, component) for component, prefixes in asked for prefix in prefixes)
    paths = [path for path, _ in (*model.named_modules(), *model.named_parameters())]
    if not any(prefix and (path == prefix or path.startswith(f"{prefix}.")) for prefix, _ in pairs for path in paths):
        top = ", ".join(path for path, _ in model.named_children())
        raise MeasurementError(f"no module of {name} is named in --components; at its top it has {top or 'none'}.")
    if isinstance(getattr(model, "components", None), torch.nn.Module):
        raise MeasurementError(f"{name} has a module called components, whose place --components would take; call it otherwise.")
    model.components = pairs
    return model
