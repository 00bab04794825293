"""torch.export of a forward, for the backends that run outside torch: the program of flat tensors, and what puts its outputs back where
a call of the model has them."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from humar_bench.backends.tensors import leaves, split
from humar_bench.errors import MeasurementError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters warn and log about themselves and about packages that nobody asked for."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


Unflatten = Callable[[Sequence[Tensor]], Any]


class _Flat(nn.Module):
    """A forward that takes and gives tensors alone, each once: some runtimes lose one that stands twice among the outputs. All else of
    inputs and outputs is a part of their layout."""

    def __init__(self, model: nn.Module, inputs: Any, keep: Callable[[tuple[list[Any], Any]], None]) -> None:
        """`keep` is given, for each leaf of the outputs, its place among the tensors, or itself in a tuple where it is none; and their
        layout. The exporter puts a module's own attributes back."""
        super().__init__()
        self.model, self.keep = model, keep
        self.given, self.taken = pytree.tree_flatten(split(inputs))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        left = iter(tensors)
        filled = [next(left) if isinstance(each, Tensor) else each for each in self.given]
        positional, named = pytree.tree_unflatten(filled, self.taken)
        outputs, layout = pytree.tree_flatten(_walkable(self.model(*positional, **named)))
        distinct = {id(each): each for each in outputs if isinstance(each, Tensor)}
        places = {key: place for place, key in enumerate(distinct)}
        self.keep(([places[id(each)] if isinstance(each, Tensor) else (each,) for each in outputs], layout))
        return tuple(distinct.values())


def _walkable(outputs: Any) -> Any:
    """The outputs, after torch was told of the dataclasses in them: else one would pass for a constant."""
    for each in pytree.tree_leaves(outputs):
        if dataclasses.is_dataclass(each) and not isinstance(each, type):
            pytree.register_dataclass(type(each))
            return _walkable(outputs)
    return outputs


def export(model: nn.Module, inputs: Any) -> tuple[torch.export.ExportedProgram, Unflatten]:
    """The forward as one graph of the tensors of inputs of these shapes (`tensors.leaves`), and what makes the model's outputs of the
    graph's; that holds on to the layout alone, not to the program and its weights. Raises MeasurementError with torch's reason where it is
    no graph."""
    found: list[tuple[list[Any], Any]] = []
    flat = _Flat(model, inputs, found.append)
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(flat, tuple(ordinary(leaves(split(inputs)))), strict=False)
    except Exception as error:
        raise MeasurementError(f"torch.export cannot make one graph of it: {reason(error)}.") from error
    places, layout = found[-1]

    def unflatten(tensors: Sequence[Tensor]) -> Any:
        return pytree.tree_unflatten([each[0] if isinstance(each, tuple) else tensors[each] for each in places], layout)

    return program, unflatten


def ordinary(inputs: Any) -> Any:
    """The inputs as tensors that were not made in inference mode."""
    return pytree.tree_map(lambda each: each.detach().clone() if each.is_inference() else each, inputs)


def reason(error: BaseException) -> str:
    """The first line of what an exporter says, which may be pages, without its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = (lines[0] if lines else "no message").rstrip(".")
    return f"{type(error).__name__}: {said[:200]}"
