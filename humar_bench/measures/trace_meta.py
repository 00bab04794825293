"""A forward watched on the meta device: a copy that owns no weights runs and computes nothing, but for small host tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.weak import WeakIdKeyDictionary

from humar_bench.measures.held import held_tensors
from humar_bench.measures.meta import result_on_meta
from humar_bench.measures.nested import replaced, tensors_in
from humar_bench.measures.storages import storages_of
from humar_bench.measures.threads import starting
from humar_bench.measures.trace_watch import Forward, Observer, Watch, aten, run_watched, written_to
from humar_bench.measures.twins import HOST_NUMBERS, NoTwin, meta_copy, meta_like

_FROM_DATA = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
_TO_HOST = {Tensor.tolist, Tensor.numpy}


def forward_on_meta(model: nn.Module, inputs: tuple, watch: Observer) -> Forward:
    """Raises whatever the forward raises; one that reads values that are not there is to be run with values."""
    twin, twins = meta_copy(model)
    meta_inputs, held = replaced(inputs, meta_like), {name: twins.get(id(each), each) for name, each in held_tensors(twin).items()}
    mode = _OnMeta(watch, twins, (*twin.parameters(), *twin.buffers(), *twins.values(), *tensors_in(meta_inputs), *held.values()))
    mode.remember_buffers(model, twin)
    mode.remember_inputs(inputs, meta_inputs)
    more = (_no_attention_shortcut(), _HostNumbers(mode), _nothing_to_write_down(), starting(mode))
    outputs = run_watched(twin, meta_inputs, mode, more)
    with torch.inference_mode():
        for tensor in tensors_in(outputs):
            if mode.is_stale(tensor):
                tensor.zero_()  # what stands in it nobody wrote
    return Forward(twin, meta_inputs, outputs, "meta", held)


@contextlib.contextmanager
def _no_attention_shortcut() -> Iterator[None]:
    """torch's fused encoder layers skip padding by its values, which meta does not have; taken apart they do the whole work."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def _nothing_to_write_down() -> Iterator[None]:
    """A pickle of a tensor on meta would come back without its numbers."""
    def refuse(tensor: Tensor, protocol: Any) -> Any:
        if tensor.is_meta:
            raise _NoValue("the model writes the numbers of a tensor down, and on the meta device there are none")
        return write(tensor, protocol)

    write, Tensor.__reduce_ex__ = Tensor.__reduce_ex__, refuse
    try:
        yield
    finally:
        Tensor.__reduce_ex__ = write


class _NoValue(Exception):
    """The model read the value of a tensor that has none."""


class _OnMeta(Watch):
    """Keep everything on meta; small host tensors keep their values, and what is computed from them alone has values too.

    `lifted`: host tensor -> what stands for it; `hosts`: storage of that -> the host tensors. An operator on meta that writes to what
    stands for a host tensor leaves the tensor itself as it was: from then on its memory is in `stale`, and nobody may read it.
    """

    def __init__(self, watch: Observer, twins: dict[int, Tensor], there: Iterable[Tensor]) -> None:
        super().__init__(watch, twins, there)
        self.lifted = WeakIdKeyDictionary()
        self.hosts: dict[int, list[Tensor]] = {}
        self.stale: dict[int, Any] = {}
        self.known = WeakIdKeyDictionary()

    def remember_buffers(self, model: nn.Module, twin: nn.Module) -> None:
        for (_, buffer), (_, copied) in zip(model.named_buffers(), twin.named_buffers(), strict=False):
            if not buffer.is_meta and buffer.numel() <= HOST_NUMBERS:
                self.known[copied] = buffer.detach().to("cpu", copy=True)

    def remember_inputs(self, inputs: tuple, meta_inputs: tuple) -> None:
        """Small inputs of whole numbers and flags, where they have values: sizes, places, masks that a model looks at."""
        for given, twin in zip(tensors_in(inputs), tensors_in(meta_inputs), strict=True):
            if not given.is_meta and not given.is_floating_point() and not given.is_complex() and given.numel() <= HOST_NUMBERS:
                self.known[twin] = given.detach().to("cpu", copy=True)

    def lift(self, tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            return tensor
        if tensor not in self.lifted:
            self.lifted[tensor] = meta_like(tensor)
            self.keep(self.lifted[tensor])
            self.watch.joined(tensor, self.lifted[tensor])
            self.hosts.setdefault(self.lifted[tensor].untyped_storage()._cdata, []).append(tensor)
        twin = self.lifted[tensor]
        if tensor.numel() <= HOST_NUMBERS and not self.is_stale(tensor):
            self.known[twin] = tensor
        return twin

    def is_stale(self, tensor: Tensor) -> bool:
        return bool(self.stale) and not tensor.is_meta and any(each._cdata in self.stale for each in storages_of(tensor))

    def _written(self, tensor: Tensor) -> None:
        """An operator wrote to a tensor on meta what nobody knows."""
        self.known.pop(tensor, None)
        for storage in storages_of(tensor):
            for host in self.hosts.get(storage._cdata, ()):
                self.stale.update((each._cdata, each) for each in storages_of(host))
                twin = self.lifted[host]
                if twin.shape != host.shape:  # an out= that was empty
                    host.resize_(twin.shape)

    def value_of(self, tensor: Tensor) -> Tensor:
        value = tensor if not tensor.is_meta else self.known.get(tensor)
        if value is None or self.is_stale(value):
            raise _NoValue("the model reads the value of a tensor on the host, and on the meta device there is none")
        return value

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(tensors_in((args, kwargs)))
        if any(id(tensor) in self.twins for tensor in tensors):
            args, kwargs = self.past_the_copy(args, kwargs, tensors)
            tensors = list(tensors_in((args, kwargs)))
        if any(map(is_traceable_wrapper_subclass, tensors)):
            raise NoTwin("a jagged tensor's sizes are values, and on the meta device there are none")
        self.look_for_strangers(op, tensors)
        if any(tensor.is_meta or self.is_stale(tensor) for tensor in tensors):
            if not all(tensor.is_meta for tensor in tensors):
                args, kwargs = replaced(args, self.lift), replaced(kwargs, self.lift)
                tensors = list(tensors_in((args, kwargs)))
        elif torch.device(kwargs.get("device") or "cpu").type != "meta":
            return self._kept(self._on_host(op, args, kwargs))
        result = self.taken_apart(op, args, kwargs)
        if result is not NotImplemented:
            return self._kept(result)
        result = self._result(op, args, kwargs, tensors)
        self.report(op, args, kwargs, result)
        return self._kept(result)

    def _kept(self, result: Any) -> Any:
        for tensor in tensors_in(result):
            self.keep(tensor)
        return result

    def _on_host(self, op: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """An operator on host tensors alone: run it, and let go of large results."""
        result = self.taken_apart(op, args, kwargs)
        if result is not NotImplemented:
            return result
        result = op(*args, **kwargs)
        self.report(op, args, kwargs, result)
        return replaced(result, lambda tensor: self.lift(tensor) if tensor.numel() > HOST_NUMBERS else tensor)

    def _result(self, op: Any, args: tuple, kwargs: dict[str, Any], tensors: list[Tensor]) -> Any:
        if op is aten._local_scalar_dense.default:
            return op(self.value_of(args[0]))
        if op is aten._to_copy.default and torch.device(kwargs.get("device") or "meta").type != "meta":
            if args[0] in self.known:
                return op(self.value_of(args[0]), **kwargs)
            kwargs = {**kwargs, "device": torch.device("meta")}
        if op is aten._to_copy.default and not args[0].is_meta:
            result = op(args[0], **kwargs)
            if args[0].numel() <= HOST_NUMBERS:
                self.known[result] = args[0].to(dtype=result.dtype, copy=True)
            return result
        result = result_on_meta(op, args, kwargs)
        self._carry(op, args, kwargs, tensors, result)
        return result

    def _carry(self, op: Any, args: tuple, kwargs: dict[str, Any], tensors: list[Tensor], result: Any) -> None:
        """Compute on the known values too, where all inputs have one; forget those an operator overwrites with an unknown."""
        made = list(tensors_in(result))
        all_known = tensors and all(tensor in self.known and not self.is_stale(self.known[tensor]) for tensor in tensors)
        if all_known and sum(tensor.numel() for tensor in made) <= HOST_NUMBERS and not isinstance(op, HigherOrderOperator):
            plain = {**kwargs, "device": torch.device("cpu")} if kwargs.get("device") is not None else kwargs
            values = op(*replaced(args, self.known.__getitem__), **replaced(plain, self.known.__getitem__))
            for tensor, value in zip(made, tensors_in(values), strict=True):
                self.known[tensor] = value
        elif isinstance(op, OpOverload) and op._schema.is_mutable:
            for tensor in written_to(op, args, kwargs):
                self._written(tensor)


class _HostNumbers(TorchFunctionMode):
    """Tensors made from numbers of the program, straight on the device: let the numbers be known first."""

    def __init__(self, mode: _OnMeta) -> None:
        super().__init__()
        self.mode = mode

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _TO_HOST and args[0].is_meta:
            value = self.mode.value_of(args[0])
            self.mode.report(aten._local_scalar_dense.default, args, {}, None)
            return func(value, *args[1:], **kwargs)
        if func is Tensor.data_ptr:
            raise _NoValue("the model asks where a tensor lies, and on the meta device it lies nowhere")
        if func in _FROM_DATA and not any(tensor.is_meta for tensor in tensors_in(args[1 if func is Tensor.new_tensor else 0 :])):
            device = kwargs.get("device", args[0].device if func is Tensor.new_tensor else None)
            if device is not None and torch.device(device).type == "meta":
                if func is Tensor.new_tensor:
                    func, args, kwargs = torch.tensor, args[1:], {"dtype": args[0].dtype, **kwargs}
                return func(*args, **{**kwargs, "device": "cpu"}).to("meta")
        return func(*args, **kwargs)
