"""Parameters, counted exactly: every tensor once, however many names it has; nothing is allocated or run.

Two names are one tensor when they are the same object or lie on the same place of the same storage. A shared tensor belongs to the
module that lists it first, so that the modules' own counts always add up to the total.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from humar_bench.errors import MeasurementError
from humar_bench.measures.components import TOP, component_of, names_of
from humar_bench.measures.storages import storages_of, stored


@dataclass(frozen=True)
class ModuleCount:
    """Parameters of one module: `own` without its children, `subtree` with them. The root has path '' and depth 0."""

    path: str
    depth: int
    own: int
    subtree: int


@dataclass(frozen=True)
class ParameterCount:
    """Elements, not bytes, where the name does not say bytes. `listed` counts a shared tensor once per name.

    `storage_bytes` is found another way, to hold `param_bytes` against (`occupied_bytes`); None where that cannot be said.
    """

    total: int
    trainable: int
    frozen: int
    buffers: int
    listed: int
    param_bytes: int
    buffer_bytes: int
    components: dict[str, int]
    modules: tuple[ModuleCount, ...]
    shared: tuple[tuple[str, ...], ...]
    storage_bytes: int | None = None

    def measured(self) -> dict[str, Any]:
        """The count as the plain values a record holds."""
        plain = asdict(self)
        plain["modules"] = [asdict(module) for module in self.modules]
        plain["shared"] = [list(names) for names in self.shared]
        return plain


def tensor_key(tensor: Tensor) -> tuple:
    """Equal for two tensors that are the same numbers in the same memory, also on the meta device."""
    if tensor.numel() == 0:
        return ("empty", id(tensor))
    if tensor.layout is not torch.strided:
        return ("sparse", *(storage._cdata for storage in storages_of(tensor)))
    return (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.numel())


def numbers_in(tensor: Tensor) -> int:
    """How many numbers a tensor holds: of a sparse one, those that it stores."""
    return [tensor, *stored(tensor)][-1].numel()


def bytes_of(tensor: Tensor) -> int:
    """The bytes of a tensor's numbers; of a sparse one, those of their places too."""
    return sum(part.numel() * part.element_size() for part in stored(tensor) or (tensor,))


def named_tensors(model: nn.Module, kind: str) -> list[tuple[str, Tensor]]:
    """Every (name, tensor) of `kind` 'parameters' or 'buffers', each name of a shared tensor included."""
    walk = model.named_parameters if kind == "parameters" else model.named_buffers
    pairs = list(walk(remove_duplicate=False))
    for name, tensor in pairs:
        if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
            raise MeasurementError(
                f"the {kind[:-1]} {name} has no shape yet; let the builder run one forward of the model, which gives it one."
            )
    return pairs


def unique_tensors(model: nn.Module, kind: str) -> list[tuple[tuple[str, ...], Tensor]]:
    """Every tensor once, with all its names, in the order the model lists them."""
    groups: dict[tuple, tuple[list[str], Tensor]] = {}
    for name, tensor in named_tensors(model, kind):
        groups.setdefault(tensor_key(tensor), ([], tensor))[0].append(name)
    return [(tuple(names), tensor) for names, tensor in groups.values()]


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the parameters and buffers of `model`, by component and by module."""
    refuse_overlaps(model)
    parameters, buffers = unique_tensors(model, "parameters"), unique_tensors(model, "buffers")
    components: dict[str, int] = {}
    own = {path: 0 for path, _ in model.named_modules()}
    for names, tensor in parameters:
        path, _, _ = names[0].rpartition(".")
        own[path] = own.get(path, 0) + numbers_in(tensor)
        named = path or names_of(model)
        component = component_of(model, names[0]) if named else TOP
        components[component] = components.get(component, 0) + numbers_in(tensor)
    total = sum(numbers_in(tensor) for _, tensor in parameters)
    trainable = sum(numbers_in(tensor) for _, tensor in parameters if tensor.requires_grad)
    return ParameterCount(
        total=total,
        trainable=trainable,
        frozen=total - trainable,
        buffers=sum(numbers_in(tensor) for _, tensor in buffers),
        listed=sum(numbers_in(tensor) for _, tensor in named_tensors(model, "parameters")),
        param_bytes=sum(bytes_of(tensor) for _, tensor in parameters),
        buffer_bytes=sum(bytes_of(tensor) for _, tensor in buffers),
        components=components,
        modules=_module_tree(own),
        shared=tuple(names for names, _ in parameters if len(names) > 1),
        storage_bytes=occupied_bytes(model.parameters()),
    )


def refuse_overlaps(model: nn.Module) -> None:
    """Raises MeasurementError for two parameters that share some of their memory and not all: neither number is the number of weights."""
    spans: dict[int, list[tuple[int, int, str]]] = {}
    for names, tensor in unique_tensors(model, "parameters"):
        if tensor.layout is torch.strided and tensor.numel() and tensor.is_contiguous():
            start = tensor.storage_offset() * tensor.element_size()
            own = spans.setdefault(tensor.untyped_storage()._cdata, [])
            end = start + tensor.numel() * tensor.element_size()
            for other_start, other_end, other in own:
                if start < other_end and other_start < end and (start, end) != (other_start, other_end):
                    shared = min(end, other_end) - max(start, other_start)
                    raise MeasurementError(
                        f"the parameters {other} and {names[0]} overlap: {shared:,} bytes of memory belong to both, so that no number of "
                        "parameters is right; make them one tensor, or give each memory of its own."
                    )
            own.append((start, end, names[0]))


def occupied_bytes(tensors: Iterable[Tensor]) -> int | None:
    """Bytes of memory that some tensors lie on, from their places alone, whatever their names; None where one of them has gaps."""
    places: dict[int, list[tuple[int, int]]] = {}
    for tensor in tensors:
        if tensor.layout is not torch.strided:
            return None
        extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        if tensor.numel() and extent != tensor.numel():
            return None
        start = tensor.storage_offset() * tensor.element_size()
        places.setdefault(tensor.untyped_storage()._cdata, []).append((start, start + tensor.numel() * tensor.element_size()))
    total = 0
    for spans in places.values():
        reached = 0
        for start, end in sorted(spans):
            total += max(0, end - max(start, reached))
            reached = max(reached, end)
    return total


def _module_tree(own: dict[str, int]) -> tuple[ModuleCount, ...]:
    subtree = dict.fromkeys(own, 0)
    for path, count in own.items():
        while True:
            subtree[path] = subtree.get(path, 0) + count
            if not path:
                break
            path = path.rpartition(".")[0]
    return tuple(
        ModuleCount(path, path.count(".") + 1 if path else 0, count, subtree[path]) for path, count in own.items()
    )
