"""What a builder gives, made the same way for all: weights from a seed, on a device, of a number type, in eval mode. Torch is imported only
inside functions.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from humar_bench.errors import MeasurementError, UsageError, is_out_of_memory, one_line

if TYPE_CHECKING:
    import torch


def made(
    name: str, make: Callable[[], torch.nn.Module], *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, seed: int = 0
) -> torch.nn.Module:
    """What `make` builds for the architecture `name`, as `build` gives it. Raises MeasurementError when it fails."""
    import torch

    device = torch.device(device)
    made_on = device if device.type == "meta" else torch.device("cpu")
    try:
        with _seeded(seed), made_on:
            model = make()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        raise MeasurementError(f"the builder of {name} raised {one_line(error)}.") from error
    if not isinstance(model, torch.nn.Module):
        raise MeasurementError(f"the builder of {name} returned a {type(model).__name__}; it must return a torch.nn.Module.")
    if device.type != "meta" and (empty := next((key for key, each in _named(model) if each.is_meta), "")):
        raise MeasurementError(
            f"the builder of {name} leaves {empty} on the device meta, where it has no numbers; let it end with to_empty(device='cpu') and "
            "fill the weights, or build on the CPU."
        )
    dtype = None if dtype is torch.float32 else dtype  # what models are built in, unless their builders want another one
    found = _AS_BUILT[model] = AsBuilt(_number_types(model), "" if dtype is None else str(dtype).removeprefix("torch."))
    converted = _in_eval_mode(_converted(model, device, dtype))
    _AS_BUILT[converted] = found
    return converted


def _named(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _in_eval_mode(model: torch.nn.Module) -> torch.nn.Module:
    """What torch.export made has the mode it was exported in, and refuses to be asked for one: from now on it stays there in silence, and
    `training` says which it is."""
    try:
        return model.eval()
    except NotImplementedError:
        model.eval, model.train = (lambda: model), (lambda mode=True: model)
        if (graph := getattr(model, "graph", None)) is not None:
            for module in model.modules():
                module.training = False  # is on in all that torch.export makes, whatever it was made of
            model.training = _of_training(graph)
        return model


def _of_training(graph: torch.fx.Graph) -> bool:
    """Whether an operator of a graph works as in training: a dropout that drops, a normalisation by its own batch."""
    for node in graph.nodes:
        named = getattr(getattr(node.target, "_schema", None), "arguments", ())
        given = {**dict(zip((each.name for each in named), node.args, strict=False)), **node.kwargs}
        if any(given.get(name) is True for name in ("train", "training")):
            return True
    return False


@dataclass(frozen=True)
class AsBuilt:
    """Elements of weights and buffers by number type (floating-point and complex ones), and what the floating-point ones were converted to
    ('' where nothing was asked)."""

    types: dict[str, int]
    converted_to: str

    def measured(self) -> dict[str, Any]:
        """For a record; nothing where all is float32, as usual."""
        return {} if set(self.types) <= {"float32"} else {"as_built": self.types, "converted_to": self.converted_to}


_AS_BUILT: weakref.WeakKeyDictionary[Any, AsBuilt] = weakref.WeakKeyDictionary()


def as_built(model: Any) -> AsBuilt:
    """The number types that a model of `made` had when its builder handed it over."""
    try:
        return _AS_BUILT[model]
    except (KeyError, TypeError):
        return AsBuilt({}, "")


def _number_types(model: torch.nn.Module) -> dict[str, int]:
    from torch.nn.parameter import UninitializedTensorMixin

    found: dict[str, int] = {}
    for each in (*model.parameters(), *model.buffers()):
        if (each.is_floating_point() or each.is_complex()) and not isinstance(each, UninitializedTensorMixin):
            name = str(each.dtype).removeprefix("torch.")
            found[name] = found.get(name, 0) + each.numel()
    return found


def _converted(model: torch.nn.Module, device: torch.device, dtype: torch.dtype | None) -> torch.nn.Module:
    """The model with its tensors on a device and its floating-point tensors of a number type; complex ones stay.

    `Module.to` cannot swap fake tensors, so under a fake tensor mode each tensor is replaced by hand, a shared one once. It would also
    throw the imaginary part of complex weights away.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensor

    if not any(isinstance(each.data, FakeTensor) for each in model.parameters()):
        if dtype is not None and any(each.is_complex() for each in (*model.parameters(), *model.buffers())):
            return model._apply(lambda tensor: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None))
        return model.to(device=device, dtype=dtype)
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, old in own.items():
                if old is None:
                    continue
                if id(old) not in made:
                    new = old.detach().to(device=device, dtype=dtype if old.is_floating_point() else None)
                    made[id(old)] = torch.nn.Parameter(new, old.requires_grad) if isinstance(old, torch.nn.Parameter) else new
                own[name] = made[id(old)]
    return model


class _seeded:
    """Torch's CPU generator starts from a seed inside and is as before outside; other devices' generators are not touched."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        import torch

        self.generator = torch.default_generator
        self.before = self.generator.get_state()
        self.generator.manual_seed(self.seed)

    def __exit__(self, *exc: object) -> None:
        self.generator.set_state(self.before)
