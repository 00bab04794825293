"""One forward, watched operator by operator, without running it: on the meta device, on a copy that owns no weights.

The copy is what makes the rest simple: its modules can be wrapped to know who calls what (also a direct `.forward()`, also a module
shared by two parents), and the caller's model is not touched, also when its forward raises. Shapes a model keeps in small host
tensors stay readable: a tensor made from numbers of the program carries them along, so that `.item()` on it works on meta. A model that
reads other values on the host, or has sparse tensors, cannot run on meta; where it has weights, a copy is then run for real ("values").
What torch.compile made runs as what it was made of, and an operator that calls functions (cond, flex_attention) as what it calls.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from humar_bench.errors import HumarBenchError, MeasurementError
from humar_bench.measures.call import called, called_inside
from humar_bench.measures.flop_formulas import counted_whole
from humar_bench.measures.held import held_tensors
from humar_bench.measures.meta import result_on_meta
from humar_bench.measures.storages import storages_of
from humar_bench.measures.threads import OtherThreads, starting
from humar_bench.measures.twins import HOST_NUMBERS, NoTwin, deep_copy, meta_copy, meta_like
from humar_bench.measures.untouched import left_untouched

aten = torch.ops.aten
DROPOUTS = {f"aten::{kind}dropout" for kind in ("", "alpha_", "feature_", "feature_alpha_")}  # (input, p, train)
_FROM_DATA = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
_TO_HOST = {Tensor.tolist, Tensor.numpy}
_WAYS_OUT = ("numpy", "tolist", "__dlpack__", "data_ptr")
_OVERWRITE = {aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default, aten.copy_.default}  # their first tensor, whatever is in it
_ARRAY = 64  # so many numbers at once are no sizes that a program reads, and no constants that it writes down
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


def tensors_in(value: Any, _depth: int = 0) -> Iterator[Tensor]:
    """Every tensor inside nested containers, dataclasses and plain objects."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part, _depth)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for part in value:
            yield from tensors_in(part, _depth)
    elif hasattr(value, "__dict__") and _depth < 4 and not isinstance(value, (type, nn.Module)) and not callable(value):
        yield from tensors_in(vars(value), _depth + 1)


def replaced(value: Any, swap: Callable[[Tensor], Any]) -> Any:
    """The same nested lists, tuples and dictionaries with every tensor swapped."""
    if isinstance(value, Tensor):
        return swap(value)
    if isinstance(value, dict):
        swapped = copy.copy(value)
        swapped.update((key, replaced(part, swap)) for key, part in value.items())
        return swapped
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(replaced(part, swap) for part in value))
    if isinstance(value, (list, tuple)):
        return type(value)(replaced(part, swap) for part in value) if value else value
    return value


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


def observe_forward(model: nn.Module, inputs: Iterable[Any], watch: Callable[[], Observer]) -> Forward:
    """Run one forward of a copy of `model`; every operator call goes to the observer `watch()` makes (a fresh one for each try).

    Raises MeasurementError when the forward raises. `model` and `inputs` are left as they are.
    """
    inputs = tuple(inputs)
    model = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
    try:
        return _on_meta(model, inputs, watch())
    except HumarBenchError:
        raise
    except Exception as error:
        has_values = not any(t.is_meta for t in (*model.parameters(), *model.buffers(), *tensors_in(inputs)))
        if not has_values:
            raise MeasurementError(
                f"the forward of {type(model).__name__} does not run on the meta device ({type(error).__name__}: {_first_line(error)}); "
                "correct it, or give weights and inputs with values."
            ) from error
    try:
        return _with_values(model, inputs, watch())
    except HumarBenchError:
        raise
    except Exception as error:
        raise MeasurementError(
            f"the forward of {type(model).__name__} raised {type(error).__name__}: {_first_line(error)}; correct the model or its inputs."
        ) from error


def _on_meta(model: nn.Module, inputs: tuple, watch: Observer) -> Forward:
    twin, twins = meta_copy(model)
    meta_inputs, held = replaced(inputs, meta_like), {name: twins.get(id(each), each) for name, each in held_tensors(twin).items()}
    mode = _OnMeta(watch, twins, (*twin.parameters(), *twin.buffers(), *twins.values(), *tensors_in(meta_inputs), *held.values()))
    mode.remember_buffers(model, twin)
    mode.remember_inputs(inputs, meta_inputs)
    more = (_no_attention_shortcut(), _HostNumbers(mode), starting(mode))
    return Forward(twin, meta_inputs, _run(twin, meta_inputs, mode, more), "meta", held)


def _with_values(model: nn.Module, inputs: tuple, watch: Observer) -> Forward:
    twin, twins = deep_copy(model)
    real_inputs, held = replaced(inputs, lambda tensor: tensor.detach().clone()), held_tensors(twin)
    mode = _WithValues(watch, twins, (*twin.parameters(), *twin.buffers(), *tensors_in(real_inputs), *held.values()))
    outputs = _run(twin, real_inputs, mode, (_leaving(mode), starting(mode)))
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
        _run(twin, smaller, again, (_leaving(again), starting(again)))
    except Exception:  # it takes no such inputs
        return 0
    together = itertools.takewhile(lambda pair: pair[0][0] is pair[1][0], zip(mode.numbers, again.numbers, strict=False))
    return sum(one != other and one not in mode.handed for (_, one), (_, other) in together)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def _run(model: nn.Module, inputs: tuple, mode: _Watch, more: tuple) -> Any:
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


@contextlib.contextmanager
def _no_attention_shortcut() -> Iterator[None]:
    """torch's fused encoder layers skip padding by its values, which meta does not have; taken apart they do the whole work."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _on_stack(mode: _Watch, key: int, forward: Callable) -> Callable:
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


class _Watch(TorchDispatchMode):
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
        tensors = list(tensors)
        first = tensors[0] if tensors else None
        for tensor in tensors:
            if id(tensor) not in self.twins and not all(storage._cdata in self.made for storage in storages_of(tensor)):
                self.keep(tensor)
                if tensor.numel() > 1 and not (op in _OVERWRITE and tensor is first):
                    self.stranger(op, tensor)

    def stranger(self, op: Any, tensor: Tensor) -> None:
        """A thread made it, whose operators nobody sees, or it was there before; unless the program writes down its few numbers here."""
        if op not in _MADE_HERE and self.others.computed():
            self.watch.returned(tensor)
        elif op not in _MADE_HERE or tensor.numel() > _ARRAY:
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


class _WithValues(_Watch):
    """`left`: numbers were handed out of torch, one by one `scalars`; `out`: by storage, a tensor whose memory was handed out,
    and what stood in it then. `handed`: those numbers; `numbers`: what operators were given as numbers of Python after several, and by
    which operator."""

    def __init__(self, watch: Observer, twins: dict[int, Tensor], there: Iterable[Tensor]) -> None:
        super().__init__(watch, twins, there)
        self.left, self.scalars = False, 0
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
        elif self.scalars > 1 and not self.origins:
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
        for tensor in tensors_in(result):
            self.keep(tensor)
        if self.out and isinstance(op, OpOverload) and op._schema.is_mutable:
            self._look_for_changes(tensors, told=False)
        return result

    def leave(self, tensor: Tensor) -> None:
        """The numbers of a tensor are handed out of torch."""
        tensor = self.stand_in(tensor)
        self.watch.left(tensor)
        self.left |= tensor.numel() > (1 if tensor.is_floating_point() or tensor.is_complex() else _ARRAY)
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


class _NoValue(Exception):
    """The model read the value of a tensor that has none."""


class _OnMeta(_Watch):
    """Keep everything on meta; small host tensors keep their values, and what is computed from them alone has values too."""

    def __init__(self, watch: Observer, twins: dict[int, Tensor], there: Iterable[Tensor]) -> None:
        super().__init__(watch, twins, there)
        self.lifted = WeakIdKeyDictionary()
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
        twin = self.lifted[tensor]
        if tensor.numel() <= HOST_NUMBERS:
            self.known[twin] = tensor
        return twin

    def value_of(self, tensor: Tensor) -> Tensor:
        value = tensor if not tensor.is_meta else self.known.get(tensor)
        if value is None:
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
        if any(tensor.is_meta for tensor in tensors):
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
                return op(self.known[args[0]], **kwargs)
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
        all_known = tensors and all(tensor in self.known for tensor in tensors)
        if all_known and sum(tensor.numel() for tensor in made) <= HOST_NUMBERS and not isinstance(op, HigherOrderOperator):
            plain = {**kwargs, "device": torch.device("cpu")} if kwargs.get("device") is not None else kwargs
            values = op(*replaced(args, self.known.__getitem__), **replaced(plain, self.known.__getitem__))
            for tensor, value in zip(made, tensors_in(values), strict=True):
                self.known[tensor] = value
        elif isinstance(op, OpOverload) and op._schema.is_mutable:
            for tensor in tensors:
                self.known.pop(tensor, None)


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
