"""Copies of a model that own no numbers: its weights on the meta device, or fake tensors that say they are on another one.

Tensors that share memory have twins that share theirs, so that whatever is counted by storage is counted once. A model is copied after it
was built, so that its builder may do to its weights whatever real ones allow.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from copyreg import _slotnames
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from humar_bench.errors import MeasurementError
from humar_bench.measures.held import held_tensors

HOST_NUMBERS = 4096  # a host tensor up to this many elements keeps its values; a larger one goes to meta


class NoTwin(Exception):
    """A tensor that meta has no like of: a sparse one, whose cost is in its values."""


def meta_like(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, strides and number type that owns no memory. Raises NoTwin for one without strides."""
    _refuse_odd(tensor)
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def meta_copy(model: nn.Module) -> tuple[nn.Module, dict[int, Tensor]]:
    """A deep copy of `model` with its weights on meta, and which of them stands for which of the originals (by id).

    Raises MeasurementError for a model that cannot be copied, NoTwin for one with tensors that meta has no like of.
    """
    twins = _twins(model, held_tensors(model).values())
    return _deep_copy(model, twins), twins


def fake_copy(model: nn.Module, mode: FakeTensorMode, device: str) -> tuple[nn.Module, dict[int, Tensor]]:
    """A deep copy of `model` with fake tensors of `mode` for weights, on `device` where the original's are on meta, else where they are;
    and which of them stands for which of the originals (by id).

    Raises as `meta_copy`.
    """
    held = list(held_tensors(model).values())
    where = {id(each): each.device if not each.is_meta else torch.device(device) for each in (*model.parameters(), *model.buffers(), *held)}
    fakes: dict[int, Tensor] = {}
    for key, twin in _twins(model, held).items():
        with torch.no_grad():
            fake = FakeTensor(mode, twin.detach(), where[key])
        fakes[key] = nn.Parameter(fake, requires_grad=twin.requires_grad) if isinstance(twin, nn.Parameter) else fake
    return _deep_copy(model, fakes), fakes


def deep_copy(model: nn.Module) -> tuple[nn.Module, dict[int, Tensor]]:
    """A deep copy with all numbers, and which of its tensors stands for which of the originals (by id). Raises MeasurementError."""
    twin = _deep_copy(model, _without_deep_copy(model))
    twins: dict[int, Tensor] = {}
    for kind in ("named_parameters", "named_buffers"):
        own = dict(getattr(twin, kind)(remove_duplicate=False))
        twins |= {id(each): own[name] for name, each in getattr(model, kind)(remove_duplicate=False) if name in own}
    return twin, twins


def _without_deep_copy(model: nn.Module) -> dict[int, Tensor]:
    """Copies of those tensors that torch itself cannot copy deeply: sparse ones, and what an operator made with a graph."""
    copies = {}
    for tensor in (*model.parameters(), *model.buffers(), *held_tensors(model).values()):
        if tensor.layout is not torch.strided or not tensor.is_leaf:
            made = tensor.detach().clone()
            copies[id(tensor)] = nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
    return copies


def _twins(model: nn.Module, held: Iterable[Tensor]) -> dict[int, Tensor]:
    twins: dict[int, Tensor] = {}
    storages: dict[int, Any] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
            raise MeasurementError(f"{name} has no shape yet; let the builder run one forward of the model, which gives it one.")
        twins[id(tensor)] = _meta_twin(tensor, storages)
    for tensor in held:  # small ones that the program made itself may hold sizes and keep their values
        odd = tensor.layout is not torch.strided or not tensor.is_leaf or tensor.is_meta
        if id(tensor) not in twins and (odd or tensor.numel() > HOST_NUMBERS):
            twins[id(tensor)] = _meta_twin(tensor, storages)
    return twins


def _meta_twin(tensor: Tensor, storages: dict[int, Any]) -> Tensor:
    """As `meta_like`, and tensors that share memory have twins that share theirs; a parameter stays a parameter."""
    _refuse_odd(tensor)
    storage = tensor.untyped_storage()
    if storage._cdata not in storages:
        storages[storage._cdata] = torch.empty(storage.nbytes(), dtype=torch.uint8, device="meta").untyped_storage()
    twin = torch.empty(0, dtype=tensor.dtype, device="meta")
    twin.set_(storages[storage._cdata], tensor.storage_offset(), tensor.shape, tensor.stride())
    return nn.Parameter(twin, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


def _refuse_odd(tensor: Tensor) -> None:
    if tensor.layout is not torch.strided:
        raise NoTwin(f"a tensor of layout {str(tensor.layout).removeprefix('torch.')} has no like on the meta device")


def _deep_copy(model: nn.Module, twins: dict[int, Tensor]) -> nn.Module:
    memo: dict[int, Any] = dict(twins)
    try:
        twin = copy.deepcopy(model, memo)
        for module in model.modules():  # torch's own way to copy one leaves its slots behind
            for key in _slotnames(type(module)):
                if hasattr(module, key) and not hasattr(copied := memo.get(id(module)), key) and copied is not None:
                    object.__setattr__(copied, key, copy.deepcopy(getattr(module, key), memo))
        return twin
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise MeasurementError(f"{type(model).__name__} cannot be copied ({said}); give it a working deepcopy.") from error
