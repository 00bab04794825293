"""How a model is called with its inputs: a sequence by position, at whose end `Keywords` may hold what is given by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.utils._pytree import register_pytree_node

from humar_bench.args import Keywords

register_pytree_node(  # so that its tensors are seen wherever inputs are walked through
    Keywords, lambda words: (list(words.values()), list(words)), lambda values, names: Keywords(zip(names, values, strict=True)),
    serialized_type_name="humar_bench.args.Keywords",
)


def _cond(chosen: Any, yes: Callable[..., Any], no: Callable[..., Any], operands: Sequence[Any] = ()) -> Any:
    return yes(*operands) if chosen else no(*operands)


def _while_loop(goes_on: Callable[..., Any], body: Callable[..., Any], carried: Sequence[Any], more: Sequence[Any] = ()) -> Any:
    while goes_on(*carried, *more):
        carried = body(*carried, *more)
    return carried


def _scan(step: Callable[..., Any], init: Sequence[Any], along: Sequence[Any], more: Sequence[Any] = ()) -> Any:
    from torch._higher_order_ops.scan import generic_scan

    return generic_scan(step, list(init), list(along), additional_inputs=tuple(more))


def _subgraph(graph: Callable[..., Any], name: Any, *operands: Any) -> Any:
    return graph(*operands)


# torch's own in Python refuse to run while somebody watches
_BY_HAND = {"cond": _cond, "while_loop": _while_loop, "scan": _scan, "invoke_subgraph": _subgraph}


def called_inside(op: HigherOrderOperator, args: tuple, kwargs: dict[str, Any]) -> Any:
    """What an operator that calls functions (cond, flex_attention) does without a compiler; NotImplemented where that is not in Python."""
    if (name := op.name()) in _BY_HAND:
        return _BY_HAND[name](*args, **kwargs)
    eager = op.py_kernels.get(torch._C.DispatchKey.CompositeExplicitAutograd)
    return NotImplemented if eager is None else eager(*args, **kwargs)


def called(model: Callable[..., Any], inputs: Sequence[Any]) -> Any:
    """The outputs of `model` for these inputs."""
    *positional, last = inputs
    return model(*positional, **last) if isinstance(last, Keywords) else model(*inputs)
