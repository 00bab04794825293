"""One forward, watched operator by operator, without running it: on the meta device, on a copy that owns no weights (`trace_meta.py`).

The copy is what makes the rest simple: its modules can be wrapped to know who calls what (also a direct `.forward()`, also a module
shared by two parents), and the caller's model is not touched, also when its forward raises. Shapes a model keeps in small host
tensors stay readable: a tensor made from numbers of the program carries them along, so that `.item()` on it works on meta. A model that
reads other values on the host, or has sparse tensors, cannot run on meta; where it has weights, a copy is then run for real
(`trace_values.py`). What torch.compile made runs as what it was made of, and an operator that calls functions (cond, flex_attention) as
what it calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from humar_bench.errors import HumarBenchError, MeasurementError, one_line
from humar_bench.measures.nested import tensors_in
from humar_bench.measures.trace_meta import forward_on_meta
from humar_bench.measures.trace_values import forward_with_values
from humar_bench.measures.trace_watch import Forward, Observer


def observe_forward(model: nn.Module, inputs: Iterable[Any], watch: Callable[[], Observer]) -> Forward:
    """Run one forward of a copy of `model`; every operator call goes to the observer `watch()` makes (a fresh one for each try).

    Raises MeasurementError when the forward raises. `model` and `inputs` are left as they are.
    """
    inputs = tuple(inputs)
    model = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
    try:
        return forward_on_meta(model, inputs, watch())
    except HumarBenchError:
        raise
    except Exception as error:
        has_values = not any(t.is_meta for t in (*model.parameters(), *model.buffers(), *tensors_in(inputs)))
        if not has_values:
            raise MeasurementError(
                f"the forward of {type(model).__name__} does not run on the meta device ({one_line(error)}); "
                "correct it, or give weights and inputs with values."
            ) from error
    try:
        return forward_with_values(model, inputs, watch())
    except HumarBenchError:
        raise
    except Exception as error:
        said = f"the forward of {type(model).__name__} raised {one_line(error)}"
        raise MeasurementError(f"{said}; correct the model or its inputs.") from error
