"""A forward watched while a copy of the model really runs: for models that read values on the host, and sparse tensors."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import _disable_current_modes, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from humar_bench.measures.held import held_tensors
from humar_bench.measures.nested import replaced, tensors_in
from humar_bench.measures.storages import storages_of
from humar_bench.measures.threads import starting
from humar_bench.measures.trace_watch import ARRAY, OF_STORAGE, Call, Forward, Observer, Watch, aten, run_watched
from humar_bench.measures.twins import deep_copy

_WAYS_OUT = ("numpy", "tolist", "__dlpack__", "data_ptr", "__reduce_ex__")


def forward_with_values(model: nn.Module, inputs: tuple, watch: Observer) -> Forward:
    """Raises whatever the forward raises."""
    twin, twins = deep_copy(model)
    real_inputs, held = replaced(inputs, lambda tensor: tensor.detach().clone()), held_tensors(twin)
    mode = _WithValues(watch, twins, (*twin.parameters(), *twin.buffers(), *tensors_in(real_inputs), *held.values()))
    outputs = run_watched(twin, real_inputs, mode, (_leaving(mode), starting(mode)))
    if mode.numbers:
        for _ in range(_made_in_python(mode, model, inputs)):
            watch.computed()
    return Forward(twin, real_inputs, outputs, "values", held)


class _Blind(Observer):
    """For a forward whose operators are known already."""

    def add(self, call: Call) -> None:
        pass


def _made_in_python(mode: _WithValues, model: nn.Module, inputs: tuple) -> int:
    """How many numbers Python made of those it was handed, as far as operators were given them: on smaller inputs they are others, and they
    are none of those that were handed out. Constants of the program stay the same."""
    try:
        twin, twins = deep_copy(model)
        smaller = replaced(inputs, lambda each: each.detach() * 0.75 if each.is_floating_point() else each.detach().clone())
        again = _WithValues(_Blind(), twins, (*twin.parameters(), *twin.buffers(), *tensors_in(smaller)))
        run_watched(twin, smaller, again, (_leaving(again), starting(again)))
    except Exception:  # it takes no such inputs
        return 0
    together = itertools.takewhile(lambda pair: pair[0][0] is pair[1][0], zip(mode.numbers, again.numbers, strict=False))
    return sum(one != other and one not in mode.handed for (_, one), (_, other) in together)


class _WithValues(Watch):
    """`left`: numbers were handed out of torch, one by one `scalars`, several at once `arrays`; `out`: by storage, a tensor whose memory
    was handed out, and what stood in it then. `handed`: those numbers; `numbers`: what operators were given as numbers of Python after
    several, and by which operator."""

    def __init__(self, watch: Observer, twins: dict[int, Tensor], there: Iterable[Tensor]) -> None:
        super().__init__(watch, twins, there)
        self.left, self.scalars, self.arrays = False, 0, 0
        self.handed: set[float] = set()
        self.numbers: list[tuple[Any, float]] = []
        self.out: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(tensors_in((args, kwargs)))
        if any(map(is_traceable_wrapper_subclass, tensors)):
            return NotImplemented  # a jagged tensor: its own operators on what it is made of are seen
        args, kwargs = self.past_the_copy(args, kwargs, tensors)
        if op is aten._local_scalar_dense.default and tensors[0].is_floating_point():
            self.scalars += 1
            self.left |= self.scalars > 1
            self.handed.add(float(tensors[0]))
        elif (self.scalars > 1 or self.arrays) and not self.origins:
            self.numbers += [(op, each) for each in tree_leaves((args, kwargs)) if isinstance(each, float)]
        self.look_for_strangers(op, tensors)
        self._look_for_changes(tensors)
        nested = any(map(_is_padded, tensors))
        result = NotImplemented if nested else self.taken_apart(op, args, kwargs)
        if result is NotImplemented:
            result = op(*args, **kwargs)
            if nested or any(map(_is_padded, tensors_in(result))):
                self.watch.unknown(op.name(), self.stack[-1], tensors, list(tensors_in(result)))
            else:
                self.report(op, args, kwargs, result)
        if op in OF_STORAGE:
            self.look_for_strangers(op, [result])
        for tensor in tensors_in(result):
            self.keep(tensor)
        if self.out and isinstance(op, OpOverload) and op._schema.is_mutable:
            self._look_for_changes(tensors, told=False)
        return result

    def leave(self, tensor: Tensor) -> None:
        """The numbers of a tensor are handed out of torch."""
        tensor = self.stand_in(tensor)
        self.watch.left(tensor)
        several = tensor.numel() > (1 if tensor.is_floating_point() or tensor.is_complex() else ARRAY)
        self.left |= several
        self.arrays += several
        if tensor.is_floating_point() and tensor.numel() <= ARRAY:
            with _disable_current_modes():
                self.handed.update(map(float, tensor.detach().flatten()))
        for storage in storages_of(tensor) if tensor.layout is torch.strided else ():
            self.out.setdefault(storage._cdata, (tensor.detach(), tensor.detach().clone()))

    def stranger(self, op: Any, tensor: Tensor) -> None:
        self.watch.returned(tensor) if self.left else super().stranger(op, tensor)

    def look_back(self, outputs: Any) -> None:
        super().look_back(outputs)
        self._look_for_changes([tensor for tensor, _ in self.out.values()])

    def _look_for_changes(self, tensors: Iterable[Tensor], *, told: bool = True) -> None:
        """Somebody outside torch wrote into memory that was handed out, or, where that is not `told`, an operator did."""
        for tensor in tensors if self.out else ():
            for storage in storages_of(tensor):
                handed, was = self.out.get(storage._cdata, (None, None))
                if handed is not None and not torch.equal(torch.nan_to_num(handed), torch.nan_to_num(was)):
                    self.out[storage._cdata] = handed, handed.clone()
                    if told:
                        self.watch.returned(handed)


@contextlib.contextmanager
def _leaving(mode: _WithValues) -> Iterator[None]:
    """Tell `mode` of every tensor whose numbers are handed to numpy or Python. A function mode would switch torch's fast paths off."""
    def telling(take: Callable) -> Callable:
        @functools.wraps(take)
        def wrapped(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            mode.leave(tensor)
            return take(tensor, *args, **kwargs)

        return wrapped

    before = {name: Tensor.__dict__.get(name) for name in _WAYS_OUT}
    for name in _WAYS_OUT:
        setattr(Tensor, name, telling(getattr(Tensor, name)))
    try:
        yield
    finally:
        for name, own in before.items():
            delattr(Tensor, name) if own is None else setattr(Tensor, name, own)


def _is_padded(tensor: Tensor) -> bool:
    """Whether it is a nested tensor of torch's old kind, which says neither its shape nor its strides."""
    return tensor.is_nested and tensor.layout is torch.strided
