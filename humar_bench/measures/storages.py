"""Which tensor memory is alive during a forward, followed operator by operator.

A storage is the memory behind one or more tensors. Every operator that Python can see is watched: the storages in its outputs are
born there, and their own finalizers say when they die. Nothing is changed in the model; under a fake tensor mode nothing is allocated.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves, tree_map_only

from humar_bench.measures.call import called_inside
from humar_bench.measures.components import component_of

MARK = "humar_bench operator "
_BY_ROWS = (torch.sparse_csr, torch.sparse_bsr)
COMPRESSED = (*_BY_ROWS, torch.sparse_csc, torch.sparse_bsc)


@dataclass(frozen=True)
class LiveTensor:
    """One storage alive at the peak, as the first tensor on it looked, and the operator and component that made it."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int
    operator: str
    component: str


@dataclass
class _Born:
    tensor: LiveTensor
    bytes: int
    finalizer: weakref.finalize


class LiveStorages(TorchDispatchMode):
    """Follows storages while it is active. `live_bytes` now, `peak_bytes` so far, and who was alive when the peak was reached.

    Storages in `before` (weights, buffers, inputs), and those that first show up as an operator's input, were there already and do
    not count; `twins` stand in for tensors that a forward reaches past a copy of its model, by id. With `mark`, each operator carries a
    profiler range named MARK and its number, and `pointers` keeps, by number, where its new storages lie.
    """

    supports_higher_order_operators = True

    def __init__(
        self, before: Iterable[Tensor], component: Callable[[], str], *, mark: bool = False, twins: Mapping[int, Tensor] | None = None
    ) -> None:
        super().__init__()
        self._twins = twins or {}
        self.live_bytes = self.peak_bytes = self.operators = 0
        self.peak_operator = self.peak_component = ""
        self.at_peak: tuple[LiveTensor, ...] = ()
        self.pointers: dict[int, set[int]] = {}
        self._component, self._mark = component, mark
        self._live: dict[int, _Born] = {}
        self._there: dict[int, torch.UntypedStorage] = {}  # held, so that no new storage can take an old one's place
        for tensor in before:
            self._was_there(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(leaf, Tensor) and is_traceable_wrapper_subclass(leaf) for leaf in tree_leaves((args, kwargs))):
            return NotImplemented  # a jagged tensor: the operators on what it is made of are seen
        if isinstance(func, HigherOrderOperator):
            with self:
                if (outputs := called_inside(func, args, kwargs)) is not NotImplemented:
                    return outputs
        if self._twins and any(id(leaf) in self._twins for leaf in tree_leaves((args, kwargs))):
            args, kwargs = tree_map_only(Tensor, lambda tensor: self._twins.get(id(tensor), tensor), (args, kwargs))
        if func is not torch.ops.aten.lift_fresh.default:  # its input is a constant just made, unseen
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor):
                    self._was_there(leaf)
        number, self.operators = self.operators, self.operators + 1
        if self._mark:
            with torch.profiler.record_function(f"{MARK}{number}"):
                outputs = func(*args, **kwargs)
        else:
            outputs = func(*args, **kwargs)
        for leaf in tree_leaves(outputs):
            if isinstance(leaf, Tensor):
                self._born(leaf, str(func), number)
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes = self.live_bytes
            self.peak_operator, self.peak_component = str(func), self._component()
            self.at_peak = tuple(each.tensor for each in self._live.values() if each.bytes)
        return outputs

    def bytes_of(self, tensors: Iterable[Tensor]) -> int:
        """Bytes of those tensors' storages that were born while this was active, each once."""
        keys = {storage._cdata for tensor in tensors if (storage := storage_of(tensor)) is not None}
        return sum(self._live[key].bytes for key in keys if key in self._live)

    def _was_there(self, tensor: Tensor) -> None:
        storage = storage_of(tensor)
        if storage is not None and storage._cdata not in self._live:
            self._there.setdefault(storage._cdata, storage)

    def _born(self, tensor: Tensor, operator: str, number: int) -> None:
        storage = storage_of(tensor)
        if storage is None or storage._cdata in self._there:
            return
        key, size = storage._cdata, storage.nbytes()
        if key in self._live:  # the same storage again, perhaps resized in place
            if size != (was := self._live[key]).bytes:
                self.live_bytes += size - was.bytes
                was.tensor = LiveTensor(_shape(tensor), _short(tensor.dtype), size, operator, was.tensor.component)
                was.bytes = size
                self._keep_pointer(storage, number)
            return
        made = LiveTensor(_shape(tensor), _short(tensor.dtype), size, operator, self._component())
        self._live[key] = _Born(made, size, weakref.finalize(storage, self._died, key))
        self._live[key].finalizer.atexit = False
        self.live_bytes += size
        self._keep_pointer(storage, number)

    def _keep_pointer(self, storage: torch.UntypedStorage, number: int) -> None:
        if self._mark:
            with contextlib.suppress(RuntimeError):  # a tangent that is all zeros lies nowhere
                self.pointers.setdefault(number, set()).add(storage.data_ptr())

    def _died(self, key: int) -> None:
        self.live_bytes -= self._live.pop(key).bytes


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """Its sizes; how many numbers there are in a nested tensor of torch's old kind, which has no sizes."""
    return (tensor.numel(),) if tensor.is_nested else tuple(tensor.shape)


def alive_now() -> tuple[LiveTensor, ...]:
    """The storages alive at this moment, from inside a forward that a `LiveStorages` follows."""
    following = next((each for each in reversed(_get_current_dispatch_mode_stack()) if isinstance(each, LiveStorages)), None)
    return () if following is None else tuple(each.tensor for each in following._live.values() if each.bytes)


def storages_of(tensor: Tensor) -> list[torch.UntypedStorage]:
    """All the memory behind a tensor: of a sparse or a jagged one, that of the tensors it is made of."""
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        return [storage for name in names for storage in storages_of(getattr(tensor, name))]
    if tensor.layout is torch.strided:
        storage = storage_of(tensor)
        return [] if storage is None else [storage]
    return [storage for part in stored(tensor) for storage in storages_of(part)]


def stored(tensor: Tensor) -> tuple[Tensor, ...]:
    """What a sparse tensor is made of, its values last; nothing where that is not known."""
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in COMPRESSED:
        places = ("crow_indices", "col_indices") if tensor.layout in _BY_ROWS else ("ccol_indices", "row_indices")
        return tuple(getattr(tensor, name)() for name in (*places, "values"))
    return ()


def storage_of(tensor: Tensor) -> torch.UntypedStorage | None:
    """The memory behind a tensor; None when it has none of its own (a sparse tensor)."""
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory behind some tensors, shared memory once."""
    sizes = {storage._cdata: storage.nbytes() for tensor in tensors for storage in storages_of(tensor)}
    return sum(sizes.values())


@contextlib.contextmanager
def current_component(model: nn.Module) -> Iterator[Callable[[], str]]:
    """A function that says in which component of `model` the forward is now.

    Uses torch's hooks for all modules, which live outside the model and are taken away at the end, also after an exception.
    """
    paths = {id(module): path for path, module in model.named_modules()}
    names = {path: component_of(model, path) for path in paths.values()}
    top = component_of(model, "")
    stack: list[str] = []

    def enter(module: nn.Module, args: Any) -> None:
        stack.append(names[paths[id(module)]] if id(module) in paths else (stack[-1] if stack else top))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if stack:
            stack.pop()

    handles = [
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield lambda: stack[-1] if stack else top
    finally:
        for handle in handles:
            handle.remove()


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
