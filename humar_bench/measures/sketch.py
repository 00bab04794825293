"""Exact costs of many like designs, fast: one forward of each on the meta device, in which a module that was called before with the same
shapes is not gone through again.

`count_flops` and `predict` watch every operator of every forward. Designs of one family share most of their layers, so here a module's
call is remembered by all that decides it: its class, its plain attributes, its weights' shapes, and the looks of what it is given.
Parameters and FLOPs are those of `count_parameters` and `count_flops`. The peak is that of live storages on meta tensors, within a few
percent of `predict`, which asks the device's own kernels what they allocate.

For models whose forward depends on shapes alone and keeps nothing from one call to the next; a module that is given, gives back or keeps
what is no tensor, plain value or module is gone through each time. Units: bytes, FLOPs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from humar_bench.errors import MeasurementError, one_line
from humar_bench.measures.flop_formulas import cost_of
from humar_bench.measures.meta import result_on_meta
from humar_bench.measures.nested import tensors_in
from humar_bench.measures.operators import HEADLINE

_PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device, slice)


@dataclass(frozen=True)
class Sketch:
    """What a design costs and what it has for it.

    `matmul_flops` is the headline count of one forward, `mixing_flops` what of it multiplies activations by activations (attention): the
    rest are products with weights. `capacity` is the weights, each counted with the square root of how often one forward multiplies by
    it: a layer that is used again brings more than one layer, and less than a second one with weights of its own.
    """

    parameters: int
    matmul_flops: int
    mixing_flops: int
    peak_bytes: int
    capacity: float


@dataclass(frozen=True)
class _Known:
    """One call of a module: what its operators cost, how often they multiplied by each of its weights (by place), the live bytes it added
    at most, and how to make its outputs again from the tensors it is given."""

    flops: int
    mixing: int
    used: tuple[tuple[int, int], ...]
    extra_bytes: int
    make: Callable[[list[Tensor]], Any]


class _Unknown(Exception):
    """Something decides a call that has no look."""


class Sketcher:
    """Remembers calls of modules from one design to the next."""

    def __init__(self) -> None:
        self.known: dict[Any, _Known | None] = {}
        self.looks: dict[Any, int] = {}  # what a module looks like -> its number, so that a large one is hashed once

    def sketch(self, build: Callable[[], nn.Module], inputs: Sequence[Any]) -> Sketch:
        """`build` is called on the meta device without drawing weights; `inputs` are on meta. Raises MeasurementError."""
        try:
            with _no_draws(), torch.device("meta"):
                model = build().eval()
            forward = _Forward(self, model, inputs)
            with forward.watching():
                model(*inputs)
        except Exception as error:
            raise MeasurementError(f"the design cannot be sketched: {one_line(error)}.") from error
        weights = {id(each): each for each in model.parameters()}
        capacity = sum(each.numel() * math.sqrt(max(1, forward.used[key])) for key, each in weights.items())
        return Sketch(sum(each.numel() for each in weights.values()), forward.flops, forward.mixing, forward.peak_bytes, capacity)


@contextlib.contextmanager
def _replaced(owner: Any, **functions: Any) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(owner, name, function)
        yield
    finally:
        for name, function in before.items():
            setattr(owner, name, function)


def _no_draws() -> contextlib.AbstractContextManager[None]:
    """`torch.nn.init` fills nothing: on meta there is nothing to fill, and half of the time of building goes there."""
    names = [name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")]
    return _replaced(nn.init, **dict.fromkeys(names, lambda tensor, *args, **kwargs: tensor))


class _Forward(TorchDispatchMode):
    """One forward: adds up operators, follows live storages, passes over calls of modules that are known."""

    def __init__(self, sketcher: Sketcher, model: nn.Module, inputs: Sequence[Any]) -> None:
        super().__init__()
        self.known, self.numbers = sketcher.known, sketcher.looks
        self.flops = self.mixing = self.live_bytes = self.peak_bytes = 0
        self.used: Counter[int] = Counter()  # weight, by id -> products with it
        there = (*model.parameters(), *model.buffers())
        self.weights = {each.untyped_storage()._cdata: id(each) for each in there}  # a storage -> its weight
        self.there = {*self.weights, *map(_storage, tensors_in(list(inputs)))}  # storages that count for nothing
        self.looks: dict[int, int] = {}  # module, by id -> the number of its look
        self.inside: dict[int, list[int]] = {}  # module, by id -> its weights, by id
        self.live: set[int] = set()
        self.making = False  # outputs from memory, which costs nothing

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        call, forward = nn.Module.__call__, self

        def known_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return forward.call(call, module, args, kwargs)

        with torch.no_grad(), _replaced(F, scaled_dot_product_attention=self.attention), _replaced(nn.Module, __call__=known_call), self:
            yield

    # Operators --------------------------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self.making:
            return op(*args, **kwargs)
        result = result_on_meta(op, args, kwargs)
        if op is torch.ops.aten.convolution.default:
            result = _laid_out_like(result, args[0])
        made = list(tensors_in(result))
        if not made:
            return result
        found = cost_of(op, op._schema.name, args, kwargs, result)
        if found is None:
            raise MeasurementError(f"the operator {op._schema.name} has no FLOP formula")
        if flops := sum(found[1].get(name, 0) for name in HEADLINE):
            read = {self.weights[key] for each in tensors_in((args, kwargs)) if (key := _storage(each)) in self.weights}
            self.flops += flops
            self.mixing += 0 if read else flops
            self.used.update(read)
        self.born(made)
        return result

    def attention(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Softmax attention as one operator, as every device has it: on meta torch would make the scores."""
        made = query.new_empty(*query.shape[:-1], value.shape[-1])
        flops = 2 * made.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        self.flops, self.mixing = self.flops + flops, self.mixing + flops
        return made

    def born(self, tensors: Sequence[Tensor]) -> None:
        for each in tensors:
            storage = each.untyped_storage()
            key = storage._cdata
            if key not in self.live and key not in self.there:
                self.live.add(key)
                self.live_bytes += storage.nbytes()
                weakref.finalize(storage, self._died, key, storage.nbytes()).atexit = False
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _died(self, key: int, size: int) -> None:
        self.live.discard(key)
        self.live_bytes -= size

    # Modules ----------------------------------------------------------------------------------------------------------------------

    def call(self, call: Callable[..., Any], module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        """`module(*args, **kwargs)`, or the same from memory."""
        given: list[Tensor] = []
        try:
            key = (self.look_of(module), self._look((args, kwargs), given))
        except _Unknown:
            return call(module, *args, **kwargs)
        if key not in self.known:
            return self._watched(key, call, module, args, kwargs, given)
        found = self.known[key]
        if found is None:
            return call(module, *args, **kwargs)
        self.flops, self.mixing = self.flops + found.flops, self.mixing + found.mixing
        self.peak_bytes = max(self.peak_bytes, self.live_bytes + found.extra_bytes)
        if found.used:
            weights = self._weights_of(module, args, kwargs)
            self.used.update({weights[place]: calls for place, calls in found.used})
        self.making = True
        try:
            result = found.make(given)
        finally:
            self.making = False
        self.born(list(tensors_in(result)))
        return result

    def _watched(self, key: Any, call: Callable[..., Any], module: nn.Module, args: tuple, kwargs: dict[str, Any], given: list) -> Any:
        """Go through a call and remember it, where its outputs can be made again."""
        flops, mixing, used, peak, live = self.flops, self.mixing, self.used, self.peak_bytes, self.live_bytes
        self.used, self.peak_bytes = Counter(), self.live_bytes
        result = call(module, *args, **kwargs)
        own, extra = self.used, self.peak_bytes - live
        self.used, self.peak_bytes = used + own, max(peak, self.peak_bytes)
        places = {weight: place for place, weight in enumerate(self._weights_of(module, args, kwargs))}
        try:
            make = self._maker(result, given)
            reads = tuple((places[weight], calls) for weight, calls in own.items())
            self.known[key] = _Known(self.flops - flops, self.mixing - mixing, reads, extra, make)
        except (_Unknown, KeyError):
            self.known[key] = None
        return result

    def _weights_of(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> list[int]:
        """The weights of a module and of the modules it is given, by id."""
        found: list[int] = []
        for one in (module, *(each for each in (*args, *kwargs.values()) if isinstance(each, nn.Module))):
            if id(one) not in self.inside:
                self.inside[id(one)] = [id(each) for each in one.parameters()]
            found += self.inside[id(one)]
        return found

    def look_of(self, module: nn.Module) -> int:
        """A number for all of a module that decides its calls. Raises _Unknown."""
        if id(module) not in self.looks:
            own = {name: value for name, value in vars(module).items() if name not in _OF_TORCH}
            held = [(name, each if each is None else (each.shape, each.dtype)) for table in (module._parameters, module._buffers)
                    for name, each in table.items()]
            parts = [(name, each if each is None else self.look_of(each)) for name, each in module._modules.items()]
            look = (type(module), tuple(held), tuple(parts), self._look(own, []))
            self.looks[id(module)] = self.numbers.setdefault(look, len(self.numbers))
        return self.looks[id(module)]

    def _look(self, value: Any, given: list[Tensor]) -> Any:
        """All of a value that decides a call; its tensors go to `given`, and one that shares its memory with another says with which."""
        if isinstance(value, Tensor):
            given.append(value)
            storage = _storage(value)
            shared = next(at for at, each in enumerate(given) if _storage(each) == storage)
            return value.shape, value.stride(), value.storage_offset(), value.dtype, shared, storage in self.there
        if isinstance(value, slice):  # has no hash before Python 3.12
            return slice, value.start, value.stop, value.step
        if isinstance(value, _PLAIN):
            return type(value), value
        if isinstance(value, nn.Module):
            return self.look_of(value)
        if isinstance(value, dict):
            return dict, tuple((name, self._look(each, given)) for name, each in value.items())
        if isinstance(value, (list, tuple)):
            return type(value), tuple(self._look(each, given) for each in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return type(value), tuple(self._look(getattr(value, each.name), given) for each in dataclasses.fields(value))
        raise _Unknown

    def _maker(self, result: Any, given: list[Tensor]) -> Callable[[list[Tensor]], Any]:
        """How to make outputs like these: new ones, or views of what the call is given. Raises _Unknown."""
        from_given = {_storage(each): at for at, each in reversed(list(enumerate(given)))}
        new: dict[int, int] = {}  # storage -> its bytes

        def plan(value: Any) -> Any:
            if isinstance(value, Tensor):
                storage = _storage(value)
                if storage in self.weights and storage not in from_given:
                    raise _Unknown
                if storage not in from_given:
                    new[storage] = value.untyped_storage().nbytes()
                layout = (value.shape, value.stride(), value.storage_offset(), value.dtype)
                return lambda made, given: _view(given[from_given[storage]] if storage in from_given else made[storage], *layout)
            if isinstance(value, _PLAIN):
                return lambda made, given: value
            if isinstance(value, (list, tuple)):
                parts = [plan(each) for each in value]
                kind = value._make if hasattr(value, "_make") else type(value)
                return lambda made, given: kind([part(made, given) for part in parts])
            raise _Unknown

        planned = plan(result)

        def make(given: list[Tensor]) -> Any:
            made = {storage: torch.empty(size, dtype=torch.uint8, device="meta") for storage, size in new.items()}
            return planned(made, given)

        return make


_OF_TORCH = {*vars(nn.Module())}  # what every module has: tables of parts, hooks, whether it trains


def _view(tensor: Tensor, shape: Any, stride: Any, offset: int, dtype: torch.dtype) -> Tensor:
    """Another look at a tensor's memory."""
    made = torch.empty(0, dtype=dtype, device="meta")
    return made.set_(tensor.untyped_storage(), offset, shape, stride)


def _laid_out_like(result: Tensor, maps: Tensor) -> Tensor:
    """A convolution's output: where the maps it is given have their channels last, so has it, which meta forgets."""
    last = torch.channels_last
    if result.dim() == 4 and maps.is_contiguous(memory_format=last) and not maps.is_contiguous():
        return torch.empty_like(result, memory_format=last)
    return result


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
