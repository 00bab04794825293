"""One CUDA graph of the eager forward: recorded once, replayed at each call on copies of the inputs.

After the habit of torch.cuda.make_graphed_callables and its notes: warm up on a side stream, record, replay; the outputs are always the
same tensors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from humar_bench.backends import Prepared
from humar_bench.backends.tensors import leaves, split
from humar_bench.errors import MeasurementError

WARM_UPS = 3  # libraries choose their kernels and allocate their workspaces before anything is recorded


def prepare(name: str, model: nn.Module, inputs: Any, *, dtype: str, cuda: Any = torch.cuda) -> Prepared:
    """Record a forward on inputs of these shapes. `cuda` stands in for torch.cuda in tests."""
    with torch.inference_mode():
        static = positional, named = pytree.tree_map_only(torch.Tensor, torch.clone, split(inputs))
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for _ in range(WARM_UPS):
                model(*positional, **named)
        cuda.current_stream().wait_stream(side)
        graph = cuda.CUDAGraph()
        try:
            with cuda.graph(graph):
                outputs = model(*positional, **named)
        except RuntimeError as error:
            if type(error).__name__ == "OutOfMemoryError":
                raise
            said = (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")
            raise MeasurementError(f"its forward cannot be recorded as a CUDA graph: {said[:200]}.") from error
    held = leaves(static)

    def call(*inputs: Any, **named: Any) -> Any:
        """Copy the inputs in, replay; the outputs are those of every call, overwritten."""
        with torch.inference_mode():
            for mine, given in zip(held, leaves((inputs, named)), strict=True):
                mine.copy_(given)
            graph.replay()
        return outputs

    input_bytes = sum(each.numel() * each.element_size() for each in held)
    return Prepared(call, {"graphs": 1, "warm_ups": WARM_UPS, "copied_input_bytes": input_bytes}, overwrites=True)
