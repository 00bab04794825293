"""What both ways of watching a forward share: which calls are reported, where they happen, and whose memory is known."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from humar_bench.measures.call import called, called_inside
from humar_bench.measures.flop_formulas import counted_whole
from humar_bench.measures.nested import replaced, tensors_in
from humar_bench.measures.storages import storages_of
from humar_bench.measures.threads import OtherThreads
from humar_bench.measures.untouched import left_untouched

aten = torch.ops.aten
DROPOUTS = {f"aten::{kind}dropout" for kind in ("", "alpha_", "feature_", "feature_alpha_")}  # (input, p, train)
OVERWRITE = {aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default, aten.copy_.default}  # their first tensor, whatever is in it
OF_STORAGE = {aten.set_.source_Storage, aten.set_.source_Storage_storage_offset}  # they make no numbers: memory may come from anywhere
ARRAY = 64  # so many numbers at once are no sizes that a program reads, and no constants that it writes down
_MADE_HERE = {aten.lift_fresh.default, aten.lift_fresh_copy.default, aten.lift.default}  # what torch.tensor makes of numbers


@dataclass(frozen=True, slots=True)
class Call:
    """One operator call. `origin` is the operator the program called, `name` what it came down to (aten::linear -> aten::addmm)."""

    op: Any
    name: str
    args: tuple
    kwargs: dict[str, Any]
    result: Any
    path: str
    origin: str


@dataclass(frozen=True)
class Forward:
    """What was watched: the copy that ran, its inputs and outputs, whether it ran on 'meta' or with 'values', and what tensors it held
    before, beside parameters and buffers (`held.py`)."""

    model: nn.Module
    inputs: tuple
    outputs: Any
    method: str
    held: dict[str, Tensor]


class Observer:
    """Sees every call of one forward."""

    def add(self, call: Call) -> None:
        """One operator was called."""
        raise NotImplementedError

    def unknown(self, name: str, path: str, read: list[Tensor], made: list[Tensor]) -> None:
        """An operator was called on tensors whose sizes nobody can ask for."""

    def joined(self, host: Tensor, twin: Tensor) -> None:
        """From now on `twin` stands for the host tensor `host`."""

    def left(self, tensor: Tensor) -> None:
        """The numbers of a tensor were handed to numpy or Python."""

    def returned(self, tensor: Tensor) -> None:
        """A tensor whose numbers no operator made, that was seen: numpy did, or Python, or another thread."""

    def computed(self) -> None:
        """A number that an operator was given was made in Python of several that it had been handed."""

    def found(self, tensor: Tensor) -> None:
        """A tensor that was there before, though nobody had found it (`held.py`)."""


def written_to(op: Any, args: tuple, kwargs: dict[str, Any]) -> list[Tensor]:
    """Arguments an operator writes to (in-place and out variants)."""
    if not isinstance(op, OpOverload) or not op._schema.is_mutable:
        return []
    written: list[Tensor] = []
    for index, argument in enumerate(op._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written += tensors_in(args[index] if index < len(args) else kwargs.get(argument.name))
    return written


def run_watched(model: nn.Module, inputs: tuple, mode: Watch, more: tuple) -> Any:
    """The outputs of one forward that `mode` watches, inside the contexts `more`."""
    for module in model.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            mode.aliases[id(module)] = []
    for path, module in model.named_modules(remove_duplicate=False):
        if id(module) in mode.aliases:
            mode.aliases[id(module)].append(path)
    for module in list(model.modules()):
        if id(module) in mode.aliases:
            module.__dict__["forward"] = _on_stack(mode, id(module), module.forward)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.inference_mode())  # composite operators arrive whole, and none takes a path that depends on gradients
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for extra in more:
            stack.enter_context(extra)
        stack.enter_context(mode)
        with left_untouched():
            outputs = called(model, inputs)
    mode.look_back(outputs)
    return outputs


def _on_stack(mode: Watch, key: int, forward: Callable) -> Callable:
    """`forward` with its module's path on top of the stack; a shared module has the path below its caller's."""
    paths = mode.aliases[key]

    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        caller = mode.stack[-1]
        mode.stack.append(next((path for path in paths if path.startswith(caller + ".")), paths[0]) if caller else paths[0])
        try:
            return forward(*args, **kwargs)
        finally:
            mode.stack.pop()

    return wrapped


class Watch(TorchDispatchMode):
    """Report every call that is not taken apart further, with the module it happened in.

    `twins`: a weight reached past the copy, through a closure, by id: its twin stands in. `there`: the tensors that no operator makes,
    because they are there before.
    """

    supports_higher_order_operators = True

    def __init__(self, watch: Observer, twins: dict[int, Tensor], there: Iterable[Tensor]) -> None:
        super().__init__()
        self.watch, self.twins = watch, twins
        self.others = OtherThreads()  # are not watched
        self._own = threading.local()
        self.made: dict[int, StorageWeakRef] = {}
        for tensor in there:
            self.keep(tensor)
        self.aliases: dict[int, list[str]] = {}

    @property
    def stack(self) -> list[str]:
        """The modules that a thread is in."""
        return vars(self._own).setdefault("stack", [""])

    @property
    def origins(self) -> list[str]:
        """The operators that a thread takes apart."""
        return vars(self._own).setdefault("origins", [])

    def report(self, op: Any, args: tuple, kwargs: dict[str, Any], result: Any) -> None:
        name = op.name() if isinstance(op, HigherOrderOperator) else op._schema.name
        self.watch.add(Call(op, name, args, kwargs, result, self.stack[-1], self.origins[0] if self.origins else name))

    def keep(self, tensor: Tensor) -> None:
        """From now on the memory of a tensor is known."""
        for storage in storages_of(tensor):
            if storage._cdata not in self.made:
                self.made[storage._cdata] = StorageWeakRef(storage)  # so that no other storage takes its place

    def look_for_strangers(self, op: Any, tensors: Iterable[Tensor]) -> None:
        """Tell the observer of tensors whose making was not seen."""
        if op is aten.equal.default:  # torch.jit compares the constants of a graph before its first run, used ones and others
            return
        tensors = list(tensors)
        first = tensors[0] if tensors else None
        for tensor in tensors:
            if id(tensor) not in self.twins and not all(storage._cdata in self.made for storage in storages_of(tensor)):
                self.keep(tensor)
                if tensor.numel() > 1 and not (op in OVERWRITE and tensor is first):
                    self.stranger(op, tensor)

    def stranger(self, op: Any, tensor: Tensor) -> None:
        """A thread made it, whose operators nobody sees, or it was there before; unless the program writes down its few numbers here."""
        if op not in _MADE_HERE and self.others.computed():
            self.watch.returned(tensor)
        elif op not in _MADE_HERE or tensor.numel() > ARRAY:
            self.watch.found(tensor)

    def look_back(self, outputs: Any) -> None:
        """After the forward: whether its outputs were made by what was seen."""
        self.look_for_strangers(None, tensors_in(outputs))

    def past_the_copy(self, args: tuple, kwargs: dict[str, Any], tensors: list[Tensor]) -> tuple[tuple, dict[str, Any]]:
        """The arguments with a twin for each of the original model's own tensors among them."""
        if not any(id(tensor) in self.twins for tensor in tensors):
            return args, kwargs
        return replaced(args, self.stand_in), replaced(kwargs, self.stand_in)

    def stand_in(self, tensor: Tensor) -> Tensor:
        return self.twins.get(id(tensor), tensor)

    def taken_apart(self, op: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The result of a composite operator's parts, each of them reported; NotImplemented for one that has none."""
        if isinstance(op, HigherOrderOperator):
            return self._parts_of(op, lambda: called_inside(op, args, kwargs))
        if not isinstance(op, OpOverload) or not op._can_decompose() or counted_whole(op, args):
            return NotImplemented
        if op._schema.name in DROPOUTS and not args[2]:
            return args[0]  # torch's decomposition copies the input here, the eager operator hands it through
        return self._parts_of(op, lambda: op.decompose(*args, **kwargs))

    def _parts_of(self, op: Any, parts: Callable[[], Any]) -> Any:
        self.origins.append(op.name() if isinstance(op, HigherOrderOperator) else op._schema.name)
        try:
            with self:
                return parts()
        finally:
            self.origins.pop()
