"""What other FLOP counters say about the same forward, converted to FLOP and laid beside ours, difference by difference.

They run for real, on the CPU or wherever the model is, each on a deep copy: the model stays as it is, also when a counter raises. A counter
that is not installed, or that raises, gives a result that says so. `differences` add up to the counter's FLOPs minus ours, always.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from humar_bench.errors import HumarBenchError, UsageError
from humar_bench.measures.call import called
from humar_bench.measures.dead_weight import find_dead_weight
from humar_bench.measures.flops import FlopCount, count_flops
from humar_bench.measures.nested import replaced, tensors_in


@dataclass(frozen=True)
class Difference:
    """FLOPs a counter has more (or less) than ours at one operator or module type, and why."""

    where: str
    flops: int
    why: str


@dataclass(frozen=True)
class CrossCheck:
    """`reported` is the counter's own number in its `unit`; None when it gave none, and `why` says so."""

    counter: str
    version: str | None
    reported: int | None
    unit: str
    as_flops: int | None
    ratio: float | None
    missed: tuple[str, ...]
    why: str
    differences: tuple[Difference, ...] = ()

    def measured(self) -> dict[str, Any]:
        """The plain values a record holds."""
        return {**asdict(self), "missed": list(self.missed), "differences": [asdict(row) for row in self.differences]}


UNITS = {"fvcore": "MAC (called flop)", "thop": "MAC", "profiler": "FLOP", "flop_counter": "FLOP"}
PACKAGES = {"fvcore": "fvcore", "thop": "thop", "profiler": "torch", "flop_counter": "torch"}
REST = "(total)"  # of a difference that nothing explains


def cross_check(model: nn.Module, inputs: Iterable[Any], counter: str, *, count: FlopCount | None = None) -> CrossCheck:
    """Let `counter` count `model(*inputs)`: fvcore, thop, torch's profiler or its flop_counter (FlopCounterMode). `count` is ours, if it is
    at hand. Raises UsageError."""
    if counter not in UNITS:
        raise UsageError(f"the counter is {counter!r}; choose one of {', '.join(UNITS)}.")
    inputs = tuple(inputs)
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers(), *tensors_in(inputs))):
        raise UsageError(f"{counter} runs the model, and this one is on the meta device; build it with weights, and small inputs.")
    try:
        version = importlib.metadata.version(PACKAGES[counter])
    except importlib.metadata.PackageNotFoundError:
        return _nothing(counter, None, f"{PACKAGES[counter]} is not installed; pip install {PACKAGES[counter]}.")
    count = count if count is not None else count_flops(model, inputs)
    try:
        with _quiet():
            reported, differences = _COUNTERS[counter](copy.deepcopy(model), replaced(inputs, lambda t: t.detach().clone()), count, model)
    except HumarBenchError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0][:200]
        return _nothing(counter, version, f"{counter} raised {type(error).__name__}: {first}".rstrip(".: ") + ".")
    as_flops = reported * (1 if UNITS[counter] == "FLOP" else 2)
    rest = as_flops - count.matmul_flops - sum(row.flops for row in differences)
    if rest:
        differences.append(Difference(REST, rest, "its parts do not add up to its total"))
    differences.sort(key=lambda row: (-abs(row.flops), row.where))
    return CrossCheck(
        counter=counter,
        version=version,
        reported=reported,
        unit=UNITS[counter],
        as_flops=as_flops,
        ratio=as_flops / count.matmul_flops if count.matmul_flops else None,
        missed=tuple(f"{row.where} ({-row.flops} FLOP)" for row in differences if row.why in _MISSES),
        why="; ".join(f"{row.where} {row.flops:+d}: {row.why}" for row in differences) or "no difference",
        differences=tuple(differences),
    )


NO_RULE = "it has no rule for this operator"
NO_MODULE_RULE = "it has no rule for this module type and does not see operators outside modules"
NO_FLOPS = "the profiler gives this operator no FLOPs"
FUSED = "part of a fused operator that it has no rule for"
OTHERWISE = "it counts this operator differently"
DEAD_CODE = "its tracer drops computations whose result is thrown away"
_MISSES = (NO_RULE, NO_MODULE_RULE, NO_FLOPS, FUSED, DEAD_CODE)
_FUSED = ("aten::_native_multi_head_attention", "aten::_transformer_encoder_layer_fwd")


def _nothing(counter: str, version: str | None, why: str) -> CrossCheck:
    return CrossCheck(counter, version, None, UNITS[counter], None, None, (), why)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No gradients, no warnings of theirs, the same random state afterwards."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def _fvcore(model: nn.Module, inputs: tuple, count: FlopCount, original: nn.Module) -> tuple[int, list[Difference]]:
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(model, inputs).unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    theirs: Counter[str] = Counter({_fvcore_name(name): 2 * int(flops) for name, flops in analysis.by_operator().items()})
    ours: Counter[str] = Counter()
    for origin, flops in count.origins.items():
        ours[_fvcore_name(origin)] += flops
    unsupported = {_fvcore_name(name) for name in analysis.unsupported_ops()}
    fused = any(_fvcore_name(name) in unsupported for name in _FUSED)
    dropped: Counter[str] = Counter()
    for row in find_dead_weight(original, inputs).discarded:
        dropped[_fvcore_name(row.origin)] += row.matmul_flops

    def why(name: str, difference: int) -> str:
        if not ours[name]:
            return "outside the headline: normalisation, sampling or pooling, counted as multiply-adds per element"
        if difference == -dropped[name]:
            return DEAD_CODE
        if name == "aten::einsum" and theirs[name]:
            return "read from the four digits that numpy.einsum_path prints"
        return FUSED if fused and name not in unsupported else NO_RULE if not theirs[name] else OTHERWISE

    differences = _by_name(ours, theirs, why)
    return int(analysis.total()), differences


def _fvcore_name(name: str) -> str:
    """One name for an operator in our count and in fvcore's: all convolutions are 'aten::conv' there, in place or not is one."""
    base = name.removeprefix("aten::") if name.startswith("aten::") else name
    if base.startswith(("conv", "_convolution")):
        base = "conv"
    return base if "::" in base else "aten::" + base.removesuffix("_")


def _profiler(model: nn.Module, inputs: tuple, count: FlopCount, original: nn.Module) -> tuple[int, list[Difference]]:
    """The profiler's FLOPs, each event's added to the outermost operator around it, as our `origins` are."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_flops=True, acc_events=True) as profiler:
        called(model, inputs)
    theirs: Counter[str] = Counter()
    ran: set[str] = set()
    for event in profiler.events():
        ran.add(event.name)
        if event.flops:
            theirs[_outermost(event)] += int(event.flops)
    ours = Counter(count.origins)
    fused = any(name in ran for name in _FUSED)

    def why(name: str, difference: int) -> str:
        if not ours[name]:
            if name in _FUSED:
                return "counted here, where ours names the operators inside"
            return "outside the headline: additions and multiplications of elements"
        if not theirs[name]:
            return FUSED if fused and name not in ran else NO_FLOPS
        if fused:
            return FUSED
        return OTHERWISE

    return sum(theirs.values()), _by_name(ours, theirs, why)


_ATTENTION = "aten::scaled_dot_product_attention"
_PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm")


def _class_of(name: str) -> str:
    """All matrix products are one class: which of them a product comes down to differs between a CPU and the meta device."""
    return "matrix product" if name in _PRODUCTS else name


def _flop_counter(model: nn.Module, inputs: tuple, count: FlopCount, original: nn.Module) -> tuple[int, list[Difference]]:
    """FlopCounterMode sees the operators that a forward comes down to where it runs, which need not be those of the meta device."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    ran: set[str] = set()

    class Ran(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
            ran.add(func._schema.name)
            return func(*args, **(kwargs or {}))

    with Ran(), FlopCounterMode(display=False) as counter:
        called(model, inputs)
    ours: Counter[str] = Counter()
    theirs: Counter[str] = Counter()
    for row in count.operators:
        ours[_class_of(row.operator)] += row.matmul_flops
    for packet, flops in counter.get_flop_counts().get("Global", {}).items():
        theirs[_class_of(str(packet).replace(".", "::", 1))] += int(flops)

    def why(name: str, difference: int) -> str:
        if difference > 0:
            return "counted here, where ours names the operator around it" if ours[_ATTENTION] > theirs[_ATTENTION] else OTHERWISE
        return NO_RULE if name in ran else FUSED

    return counter.get_total_flops(), _by_name(ours, theirs, why)


def _outermost(event: Any) -> str:
    """The outermost operator around a profiler event; of attention that is taken apart, the attention itself."""
    name = event.name
    while event is not None:
        if "::" in event.name:
            name = event.name
        event = event.cpu_parent
    return name


def _thop(model: nn.Module, inputs: tuple, count: FlopCount, original: nn.Module) -> tuple[int, list[Difference]]:
    import thop

    modules = dict(model.named_modules(remove_duplicate=False))  # before thop adds buffers
    total, _, tree = thop.profile(model, inputs, verbose=False, ret_layer_info=True)
    theirs: Counter[str] = Counter()

    def walk(branch: dict[str, tuple], above: str) -> None:
        for name, (multiply_adds, _, below) in branch.items():
            path = f"{above}.{name}" if above else name
            if below:
                walk(below, path)
            else:
                theirs[path] += 2 * int(multiply_adds)

    walk(tree, "")
    ours: Counter[str] = Counter()
    for path, row in count.modules.items():
        leaf = path  # what happens below a module that thop takes whole belongs to it
        while leaf and leaf not in theirs:
            leaf = leaf.rpartition(".")[0]
        ours[leaf or path] += row["matmul_flops"]
    by_type: dict[tuple[str, str], list] = {}
    for path in theirs | ours:
        difference = theirs[path] - ours[path]
        if not difference:
            continue
        kind = type(modules[path]).__name__ if path in modules else path
        if not ours[path]:
            reason = "outside the headline, or called by another path: it counts this module's type"
        else:
            reason = NO_MODULE_RULE if not theirs[path] else "it counts this module type differently, or a shared one once per parent"
        row = by_type.setdefault((kind, reason), [0, 0])
        row[0] += 1
        row[1] += difference
    return int(total), [Difference(f"{kind} x{number}", flops, reason) for (kind, reason), (number, flops) in by_type.items()]


def _by_name(ours: Counter, theirs: Counter, why: Callable[[str, int], str]) -> list[Difference]:
    names = sorted(set(ours) | set(theirs))
    return [Difference(name, d, why(name, d)) for name in names if (d := theirs[name] - ours[name])]


_COUNTERS = {"fvcore": _fvcore, "thop": _thop, "profiler": _profiler, "flop_counter": _flop_counter}
