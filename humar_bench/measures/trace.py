"""One forward, watched operator by operator, without running it: on the meta device, on a copy that owns no weights.

The copy is what makes the rest simple: its modules can be wrapped to know who calls what (also a direct `.forward()`, also a module
shared by two parents), and the caller's model is not touched, also when its forward raises. Shapes a model keeps in small host
tensors stay readable: a tensor made from numbers of the program carries them along, so that `.item()` on it works on meta. A model that
reads other values on the host cannot run on meta; where it has weights, a copy is then run for real ("values").
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from humar_bench.errors import HumarBenchError, MeasurementError
from humar_bench.measures.call import called
from humar_bench.measures.flop_formulas import counted_whole
from humar_bench.measures.meta import result_on_meta
from humar_bench.measures.untouched import left_untouched

HOST_NUMBERS = 4096  # a host tensor up to this many elements keeps its values; a larger one goes to meta
aten = torch.ops.aten
DROPOUTS = {f"aten::{kind}dropout" for kind in ("", "alpha_", "feature_", "feature_alpha_")}  # (input, p, train)
_FROM_DATA = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
_TO_HOST = {Tensor.tolist, Tensor.numpy}


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
    """What was watched: the copy that ran, its inputs and outputs, and whether it ran on 'meta' or with 'values'."""

    model: nn.Module
    inputs: tuple
    outputs: Any
    method: str


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

    def joined(self, host: Tensor, twin: Tensor) -> None:
        """From now on `twin` stands for the host tensor `host`."""


def meta_like(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, strides and number type that owns no memory."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _meta_twin(tensor: Tensor, storages: dict[int, Any]) -> Tensor:
    """As `meta_like`, and tensors that share memory have twins that share theirs; a parameter stays a parameter."""
    storage = tensor.untyped_storage()
    if storage._cdata not in storages:
        storages[storage._cdata] = torch.empty(storage.nbytes(), dtype=torch.uint8, device="meta").untyped_storage()
    twin = torch.empty(0, dtype=tensor.dtype, device="meta")
    twin.set_(storages[storage._cdata], tensor.storage_offset(), tensor.shape, tensor.stride())
    return nn.Parameter(twin, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


def meta_copy(model: nn.Module) -> tuple[nn.Module, dict[int, Tensor]]:
    """A deep copy of `model` with its weights on meta, and which of them stands for which of the originals (by id)."""
    twins: dict[int, Tensor] = {}
    storages: dict[int, Any] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
            raise MeasurementError(f"{name} has no shape yet; run one forward of the model before counting it.")
        twins[id(tensor)] = _meta_twin(tensor, storages)
    for module in model.modules():
        for value in vars(module).values():  # plain tensors; small ones the program made itself may hold sizes and keep their values
            if isinstance(value, Tensor) and id(value) not in twins and (value.numel() > HOST_NUMBERS or not value.is_leaf):
                twins[id(value)] = _meta_twin(value, storages)
    try:
        return copy.deepcopy(model, dict(twins)), twins
    except Exception as error:
        raise MeasurementError(f"{type(model).__name__} cannot be copied ({_first_line(error)}); give it a working deepcopy.") from error


def observe_forward(model: nn.Module, inputs: Iterable[Any], watch: Callable[[], Observer]) -> Forward:
    """Run one forward of a copy of `model`; every operator call goes to the observer `watch()` makes (a fresh one for each try).

    Raises MeasurementError when the forward raises. `model` and `inputs` are left as they are.
    """
    inputs = tuple(inputs)
    model = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
    twin, twins = meta_copy(model)
    meta_inputs = replaced(inputs, meta_like)
    mode = _OnMeta(watch(), twins)
    mode.remember_buffers(model, twin)
    try:
        outputs = _run(twin, meta_inputs, mode, (_no_attention_shortcut(), _HostNumbers(mode)))
        return Forward(twin, meta_inputs, outputs, "meta")
    except HumarBenchError:
        raise
    except Exception as error:
        has_values = not any(t.is_meta for t in (*model.parameters(), *model.buffers(), *tensors_in(inputs)))
        if not has_values:
            raise MeasurementError(
                f"the forward of {type(model).__name__} does not run on the meta device ({type(error).__name__}: {_first_line(error)}); "
                "correct it, or give weights and inputs with values."
            ) from error
    twin, real_inputs = copy.deepcopy(model), replaced(inputs, lambda tensor: tensor.detach().clone())
    try:
        return Forward(twin, real_inputs, _run(twin, real_inputs, _WithValues(watch()), ()), "values")
    except HumarBenchError:
        raise
    except Exception as error:
        raise MeasurementError(
            f"the forward of {type(model).__name__} raised {type(error).__name__}: {_first_line(error)}; correct the model or its inputs."
        ) from error


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
        for extra in more:
            stack.enter_context(extra)
        stack.enter_context(mode)
        with left_untouched():
            return called(model, inputs)


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
    """Report every call that is not taken apart further, with the module it happened in."""

    supports_higher_order_operators = True

    def __init__(self, watch: Observer) -> None:
        super().__init__()
        self.watch = watch
        self.stack: list[str] = [""]
        self.aliases: dict[int, list[str]] = {}
        self.origins: list[str] = []

    def report(self, op: Any, args: tuple, kwargs: dict[str, Any], result: Any) -> None:
        name = op.name() if isinstance(op, HigherOrderOperator) else op._schema.name
        self.watch.add(Call(op, name, args, kwargs, result, self.stack[-1], self.origins[0] if self.origins else name))

    def taken_apart(self, op: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The result of a composite operator's parts, each of them reported; NotImplemented for one that has none."""
        if not isinstance(op, OpOverload) or not op._can_decompose() or counted_whole(op):
            return NotImplemented
        if op._schema.name in DROPOUTS and not args[2]:
            return args[0]  # torch's decomposition copies the input here, the eager operator hands it through
        self.origins.append(op._schema.name)
        try:
            with self:
                return op.decompose(*args, **kwargs)
        finally:
            self.origins.pop()


class _WithValues(_Watch):
    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = self.taken_apart(op, args, kwargs)
        if result is NotImplemented:
            result = op(*args, **kwargs)
            self.report(op, args, kwargs, result)
        return result


class _NoValue(Exception):
    """The model read the value of a tensor that has none."""


class _OnMeta(_Watch):
    """Keep everything on meta; small host tensors keep their values, and what is computed from them alone has values too."""

    def __init__(self, watch: Observer, twins: dict[int, Tensor]) -> None:
        super().__init__(watch)
        self.twins = twins  # a weight reached past the copy (through a closure) is replaced by its twin
        self.lifted = WeakIdKeyDictionary()
        self.known = WeakIdKeyDictionary()

    def remember_buffers(self, model: nn.Module, twin: nn.Module) -> None:
        for (_, buffer), (_, copied) in zip(model.named_buffers(), twin.named_buffers(), strict=False):
            if not buffer.is_meta and buffer.numel() <= HOST_NUMBERS:
                self.known[copied] = buffer.detach().to("cpu", copy=True)

    def lift(self, tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            return tensor
        if id(tensor) in self.twins:
            return self.twins[id(tensor)]
        if tensor not in self.lifted:
            self.lifted[tensor] = meta_like(tensor)
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
        if any(tensor.is_meta for tensor in tensors):
            if not all(tensor.is_meta for tensor in tensors):
                args, kwargs = replaced(args, self.lift), replaced(kwargs, self.lift)
                tensors = list(tensors_in((args, kwargs)))
        elif torch.device(kwargs.get("device") or "cpu").type != "meta":
            return self._on_host(op, args, kwargs)
        result = self.taken_apart(op, args, kwargs)
        if result is not NotImplemented:
            return result
        result = self._result(op, args, kwargs, tensors)
        self.report(op, args, kwargs, result)
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
        if func in _FROM_DATA and not any(tensor.is_meta for tensor in tensors_in(args[1 if func is Tensor.new_tensor else 0 :])):
            device = kwargs.get("device", args[0].device if func is Tensor.new_tensor else None)
            if device is not None and torch.device(device).type == "meta":
                if func is Tensor.new_tensor:
                    func, args, kwargs = torch.tensor, args[1:], {"dtype": args[0].dtype, **kwargs}
                return func(*args, **{**kwargs, "device": "cpu"}).to("meta")
        return func(*args, **kwargs)
