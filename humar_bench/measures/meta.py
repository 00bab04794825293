"""What an operator makes of tensors on the meta device: shapes, strides and number types, without working the same ones out twice.

Torch works many of them out in Python, some milliseconds a call, and a model's layers repeat.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
_made: dict[tuple, tuple] = {}  # an operator and all that decides its results -> whether they are several, and what they look like
_pure: dict[OpOverload, bool] = {}


def _sampled(maps: Tensor, grid: Tensor, *_: Any) -> Tensor:
    return maps.new_empty((*maps.shape[:2], *grid.shape[1:-1]))


# These come down to hundreds of operators; the shape of the result is all that is wanted. Inputs were checked before.
_RULES = {aten.grid_sampler_2d.default: _sampled, aten.grid_sampler_3d.default: _sampled}


def result_on_meta(op: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`op(*args, **kwargs)` on meta tensors; a call that was made before with tensors of the same look is answered from the first."""
    if op in _RULES:
        return _RULES[op](*args)
    if not isinstance(op, OpOverload) or not _is_pure(op):
        return op(*args, **kwargs)
    try:
        key = (op, torch.get_default_dtype(), _look(args), _look(sorted(kwargs.items())))
        known = _made.get(key)
    except TypeError:
        return op(*args, **kwargs)
    if known is None:
        result = op(*args, **kwargs)
        made = result if isinstance(result, tuple) else (result,)
        if all(map(_is_ordinary, made)) and _storages((args, kwargs)).isdisjoint(_storages(made)):  # _unsafe_view does not say it is a view
            _made[key] = isinstance(result, tuple), tuple((each.shape, each.stride(), each.dtype) for each in made)
        return result
    several, looks = known
    made = tuple(torch.empty_strided(shape, stride, dtype=dtype, device="meta") for shape, stride, dtype in looks)
    return made if several else made[0]


def _is_pure(op: OpOverload) -> bool:
    """Whether its schema says that no result is a view and nothing is written to."""
    if op not in _pure:
        _pure[op] = not any(each.alias_info is not None for each in (*op._schema.arguments, *op._schema.returns))
    return _pure[op]


def _is_ordinary(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta and value.layout is torch.strided and not value.is_complex()


def _look(value: Any) -> Any:
    """All of a value that decides what results look like, with a hash. Raises TypeError where that is not known."""
    if isinstance(value, Tensor):
        if not _is_ordinary(value):
            raise TypeError
        return value.shape, value.stride(), value.dtype
    return tuple(map(_look, value)) if isinstance(value, (list, tuple)) else (type(value), value)


def _storages(value: Any) -> set[int]:
    return {each.untyped_storage()._cdata for each in tree_leaves(value) if isinstance(each, Tensor)}
