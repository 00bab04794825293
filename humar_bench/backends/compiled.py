"""torch.compile, plain and with CUDA graphs (mode "reduce-overhead"). Compiling is done here, not in the first call."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from humar_bench.backends import Prepared
from humar_bench.backends.tensors import split
from humar_bench.errors import MeasurementError

COMPILER = "inductor"
GRAPH_CALLS = 3  # a CUDA graph tree warms up in its first call, records in its second, replays from its third on


def prepare(name: str, model: nn.Module, inputs: Any, *, dtype: str) -> Prepared:
    """Compile for inputs of these shapes and call until nothing is compiled or recorded any more."""
    from torch._dynamo.utils import counters

    graphs, (positional, named) = name == "compile-graph", split(inputs)
    counters.clear()
    options = {"mode": "reduce-overhead"} if graphs else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        compiled = torch.compile(model, backend=COMPILER, dynamic=False, **options)
        try:
            with torch.inference_mode():
                for _ in range(GRAPH_CALLS if graphs else 1):
                    _begin(graphs)
                    compiled(*positional, **named)
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
                raise
            said = (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")
            raise MeasurementError(f"torch.compile cannot compile it: {type(error).__name__}: {said[:200]}.") from error
    breaks = {str(reason).splitlines()[0][:200]: count for reason, count in counters["graph_break"].items()}
    inductor = counters["inductor"]
    did = {
        "threads": torch.get_num_threads(), "compiler": COMPILER, "graphs": counters["stats"].get("unique_graphs", 0),
        "graph_breaks": sum(breaks.values()), "graph_break_reasons": breaks,
        "cache_hits": inductor.get("fxgraph_cache_hit", 0), "cache_misses": inductor.get("fxgraph_cache_miss", 0),
    }
    if graphs:
        did["cuda_graphs_skipped"] = inductor.get("cudagraph_skips", 0)

    def call(*inputs: Any, **named: Any) -> Any:
        _begin(graphs)
        return compiled(*inputs, **named)

    return Prepared(call, did, overwrites=graphs)


def _begin(graphs: bool) -> None:
    """Outputs of the call before may be overwritten from here on."""
    if graphs:
        torch.compiler.cudagraph_mark_step_begin()
