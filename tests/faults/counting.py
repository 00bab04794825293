"""Faults of counting: parameters counted twice or not at all, multiplications that no formula sees, one unit taken for another."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from humar_bench.measures import flop_formulas, flops, params
from humar_bench.running import cost_worker
from tests.faults.fault import Fault
from tests.faults.harness import Patch, flags, measured

PLACES = "counted bytes are held against the memory that the parameters lie on (`contradictions.py`)"
KNOWN = "the counter proves itself on forms of known cost before it counts (`flop_check.py`)"


@functools.cache
def said(measure: str, builder: str, patch: Patch | None = None) -> list[str]:
    return flags(measured(["tied", builder] if builder != "tied" else ["tied"], [measure], patch=patch))


def fault(
    name: str, measure: str, seeded: str, effect: str, caught: str, says: str, patch: Patch | None = None, builder: str = "tied"
) -> Fault:
    return Fault(name, "counting", seeded, effect, caught, says, lambda: said(measure, builder, patch), lambda: said(measure, "tied"))


def _no_attention(patches: Any) -> None:
    for name in [name for name in flop_formulas.RULES if "scaled_dot_product" in name]:
        patches.setitem(flop_formulas.RULES, name, lambda *given, **more: {"softmax": 1})


def _no_fast_path(patches: Any) -> None:
    """What torch does in one fused operator, in eval mode and without gradients, counts nothing."""
    count = flops.count_flops

    def blind(model: Any, inputs: Any, **more: Any) -> Any:
        counted = count(model, inputs, **more)
        if type(model).__name__ in ("TransformerEncoderLayer", "_SelfAttention"):
            return dataclasses.replace(counted, matmul_flops=0)
        return counted

    patches.setattr(flops, "count_flops", blind)


def _multiply_adds(patches: Any) -> None:
    """A multiply-add counts as one."""
    for name in ("mm", "bmm", "addmm", "baddbmm"):
        rule = flop_formulas.RULES[name]
        patches.setitem(
            flop_formulas.RULES, name,
            lambda *given, rule=rule, **more: {key: value // 2 for key, value in rule(*given, **more).items()},
        )


def _headline_in_macs(patches: Any) -> None:
    measured = flops.FlopCount.measured
    patches.setattr(flops.FlopCount, "measured", lambda self: {**measured(self), "matmul_flops": self.matmul_flops // 2})


def _names_count(patches: Any) -> None:
    patches.setattr(params, "tensor_key", lambda tensor: (object(),))


def _buffers_too(patches: Any) -> None:
    named = params.named_tensors
    patches.setattr(
        params, "named_tensors",
        lambda model, kind: [*named(model, kind), *(named(model, "buffers") if kind == "parameters" else [])],
    )


def _trainable_only(patches: Any) -> None:
    named = params.named_tensors
    patches.setattr(
        params, "named_tensors",
        lambda model, kind: [pair for pair in named(model, kind) if kind == "buffers" or pair[1].requires_grad],
    )


def _component_lost(patches: Any) -> None:
    component = params.component_of
    patches.setattr(params, "component_of", lambda model, path: "encode" if path.startswith("encode") else component(model, path))
    count = params.count_parameters

    def without(model: Any) -> Any:
        counted = count(model)
        return dataclasses.replace(counted, components={name: each for name, each in counted.components.items() if name != "encode"})

    patches.setattr(cost_worker, "count_parameters", without)


FAULTS = (
    fault("attention counted 0", "flops", "scaled_dot_product_attention has no matmul in its formula",
          "all attention scores; 4.6 for 9.2 GFLOP",
          KNOWN, r"the FLOP counter gives 0 for scaled_dot_product_attention", _no_attention),
    fault("fast path counted 0", "flops", "the fused encoder layer that eval mode takes is not seen", "0 for a whole encoder", KNOWN,
          r"the FLOP counter gives 0 for nn\.MultiheadAttention", _no_fast_path),
    fault("multiply-adds counted as FLOPs", "flops", "a formula gives 1 per multiply-add", "2x", KNOWN,
          r"the FLOP counter gives \d+ for a linear layer of", _multiply_adds),
    fault("MACs printed as FLOPs", "flops", "the headline holds multiply-adds", "2x",
          "components, operators and multiply-adds must add up to the headline (`contradictions.py`)",
          r"multiply-adds are not half of", _headline_in_macs),
    fault("custom operator uncounted", "flops", "a model multiplies in an operator of its own", "all of that operator",
          "an operator without a formula is named and the total called a lower bound",
          r"NOT COUNTED, no formula is known: humar_faults::mix",
          builder="custom_operator"),
    fault("tied weights counted twice", "params", "each name of a shared tensor counts", "256 parameters too many, of 386", PLACES,
          r"are counted as \d+ bytes and lie on \d+ bytes of memory", _names_count),
    fault("buffers counted as parameters", "params", "the walk takes buffers too", "16 parameters too many, of 386", PLACES,
          r"are counted as \d+ bytes and lie on \d+ bytes of memory", _buffers_too),
    fault("frozen parameters dropped", "params", "only what requires gradients counts", "34 parameters too few, of 386", PLACES,
          r"are counted as \d+ bytes and lie on \d+ bytes of memory", _trainable_only),
    fault("lazy parameters counted 0", "params", "a parameter has no shape before the first forward", "a whole layer",
          "a parameter without a shape is refused", r"has no shape yet", builder="lazy_parameters"),
    fault("component lost", "params", "one component is left out of the breakdown", "all of it",
          "components must add up to the total (`contradictions.py`)", r"its components add up to", _component_lost),
)
