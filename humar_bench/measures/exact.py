"""FLOPs and dead weight of one forward from watching it once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from humar_bench.measures.dead_weight import DeadWeight, Flow, read_flow
from humar_bench.measures.flops import FlopCount, Tally, read_tally
from humar_bench.measures.trace import observe_forward
from humar_bench.measures.trace_watch import Call, Observer


@dataclass(frozen=True)
class Exact:
    """What one watched forward says; `outputs` have the shapes that `model(*inputs)` would return."""

    flops: FlopCount
    dead_weight: DeadWeight
    outputs: Any


class _Both(Observer):
    def __init__(self, strict: bool) -> None:
        self.tally, self.flow = Tally(strict), Flow()

    def add(self, call: Call) -> None:
        self.tally.add(call)
        self.flow.add(call)

    def unknown(self, name: str, path: str, read: list[Tensor], made: list[Tensor]) -> None:
        self.tally.unknown(name, path, read, made)
        self.flow.unknown(name, path, read, made)

    def joined(self, host: Tensor, twin: Tensor) -> None:
        self.flow.joined(host, twin)

    def left(self, tensor: Tensor) -> None:
        self.flow.left(tensor)

    def returned(self, tensor: Tensor) -> None:
        self.tally.returned(tensor)

    def computed(self) -> None:
        self.tally.computed()

    def found(self, tensor: Tensor) -> None:
        self.flow.found(tensor)


def count_exactly(model: nn.Module, inputs: Iterable[Any], *, strict: bool = False) -> Exact:
    """`count_flops` and `find_dead_weight` of `model(*inputs)` at the price of one of them; it is not run and stays as it is.

    Raises MeasurementError when the forward raises, and with `strict` when an operator has no formula.
    """
    both: list[_Both] = []

    def watch() -> _Both:
        both.append(_Both(strict))
        return both[-1]

    forward = observe_forward(model, tuple(inputs), watch)
    return Exact(read_tally(both[-1].tally, model, forward), read_flow(both[-1].flow, model, forward), forward.outputs)
