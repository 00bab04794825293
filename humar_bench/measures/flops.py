"""FLOPs of one forward, counted operator by operator on the meta device: nothing is allocated, every machine gets the same number.

Headline: matrix multiplications and convolutions, 2 per multiply-add. Beside it a second tier with the coefficients of
`flop_formulas.COEFFICIENTS`. An operator without a formula is listed in `uncounted`, or an error when `strict`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from humar_bench.errors import MeasurementError
from humar_bench.measures.components import component_of
from humar_bench.measures.flop_formulas import COEFFICIENTS, cost_of, register_formula
from humar_bench.measures.nested import tensors_in
from humar_bench.measures.operators import HEADLINE, NO_KERNEL, SYNCHRONISATION
from humar_bench.measures.trace import observe_forward
from humar_bench.measures.trace_watch import Call, Forward, Observer

__all__ = ["FlopCount", "OperatorFlops", "count_flops", "register_formula"]


@dataclass(frozen=True)
class OperatorFlops:
    """All calls of one operator."""

    operator: str
    calls: int
    category: str
    matmul_flops: int
    second_tier_flops: int


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of one forward. Components, operators and modules each add up to the totals.

    `modules` holds, per module path, what it computes itself, without its children. `origins` are the headline FLOPs by the operator the
    program called (aten::linear, aten::einsum), where `operators` names what it came down to. `method` is 'meta', or 'values' for a model
    that reads values on the host and was run for real. `outside` is how often numbers came back that had left torch (for numpy, for
    Python): what was done with them there is not counted.
    """

    matmul_flops: int
    second_tier_flops: int
    second_tier: dict[str, int]
    components: dict[str, dict[str, int]]
    operators: tuple[OperatorFlops, ...]
    uncounted: tuple[tuple[str, int], ...]
    batch: int
    kernels: int
    synchronisations: int
    modules: dict[str, dict[str, int]] = field(default_factory=dict)
    origins: dict[str, int] = field(default_factory=dict)
    method: str = "meta"
    outside: int = 0

    @property
    def macs(self) -> int:
        """Multiply-adds of the headline."""
        return self.matmul_flops // 2

    def measured(self) -> dict[str, Any]:
        """The count as the plain values a record holds."""
        plain = asdict(self)
        del plain["origins"]
        plain["macs"] = self.macs
        plain["coefficients"] = dict(COEFFICIENTS)
        plain["operators"] = [asdict(row) for row in self.operators]
        plain["uncounted"] = [{"operator": name, "calls": calls} for name, calls in self.uncounted]
        return plain


class Tally(Observer):
    """Adds up calls: by module path, by operator, by what the program called."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.calls: Counter[str] = Counter()
        self.category: dict[str, str] = {}
        self.by_operator: dict[str, list[int]] = {}
        self.by_path: dict[str, list[int]] = {}
        self.origins: Counter[str] = Counter()
        self.tiers: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self.kernels = self.synchronisations = self.outside = 0

    def returned(self, tensor: Tensor) -> None:
        self.outside += 1

    def computed(self) -> None:
        self.outside += 1

    def unknown(self, name: str, path: str, read: list[Tensor], made: list[Tensor]) -> None:
        self.uncounted[name] += 1
        self.kernels += 1

    def add(self, call: Call) -> None:
        found = cost_of(call.op, call.name, call.args, call.kwargs, call.result)
        if found is None:
            if self.strict:
                raise MeasurementError(
                    f"the operator {call.name} in module {call.path or '(top)'!r} has no FLOP formula; "
                    "give it one with humar_bench.measures.flops.register_formula."
                )
            return self.unknown(call.name, call.path, [], [])
        category, cost = found
        headline = sum(cost.get(name, 0) for name in HEADLINE)
        second = sum(cost.values()) - headline
        self.calls[call.name] += 1
        self.category.setdefault(call.name, category)
        for table, key in ((self.by_operator, call.name), (self.by_path, call.path)):
            row = table.setdefault(key, [0, 0])
            row[0] += headline
            row[1] += second
        if headline:
            self.origins[call.origin] += headline
        self.tiers.update({name: flops for name, flops in cost.items() if name not in HEADLINE})
        self.kernels += category not in NO_KERNEL
        self.synchronisations += category == SYNCHRONISATION


def count_flops(model: nn.Module, inputs: Iterable[Any], *, strict: bool = False) -> FlopCount:
    """Count the FLOPs of `model(*inputs)`. The model may live on any device, meta included; it is not run and stays as it is.

    Raises MeasurementError when the forward raises, and with `strict` when an operator has no formula.
    """
    inputs = tuple(inputs)
    tallies: list[Tally] = []

    def watch() -> Tally:
        tallies.append(Tally(strict))
        return tallies[-1]

    forward = observe_forward(model, inputs, watch)
    return read_tally(tallies[-1], model, forward)


def read_tally(tally: Tally, model: nn.Module, forward: Forward) -> FlopCount:
    """The count of one forward of `model` from what a tally saw of it."""
    components: dict[str, dict[str, int]] = {}
    for path, (headline, second) in tally.by_path.items():
        row = components.setdefault(component_of(model, path), {"matmul_flops": 0, "second_tier_flops": 0})
        row["matmul_flops"] += headline
        row["second_tier_flops"] += second
    operators = [
        OperatorFlops(name, tally.calls[name], tally.category[name], headline, second)
        for name, (headline, second) in tally.by_operator.items()
    ]
    operators.sort(key=lambda row: (-row.matmul_flops, -row.second_tier_flops, row.operator))
    first = next(tensors_in(forward.inputs), None)
    return FlopCount(
        matmul_flops=sum(headline for headline, _ in tally.by_path.values()),
        second_tier_flops=sum(second for _, second in tally.by_path.values()),
        second_tier=dict(sorted(tally.tiers.items())),
        components=components,
        operators=tuple(operators),
        uncounted=tuple(sorted(tally.uncounted.items())),
        batch=first.shape[0] if first is not None and first.dim() else 1,
        kernels=tally.kernels,
        synchronisations=tally.synchronisations,
        modules={path: {"matmul_flops": h, "second_tier_flops": s} for path, (h, s) in sorted(tally.by_path.items())},
        origins=dict(tally.origins),
        method=forward.method,
        outside=tally.outside,
    )
