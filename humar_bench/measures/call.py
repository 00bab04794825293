"""How a model is called with its inputs: a sequence by position, at whose end `Keywords` may hold what is given by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils._pytree import register_pytree_node

from humar_bench.args import Keywords

register_pytree_node(  # so that its tensors are seen wherever inputs are walked through
    Keywords, lambda words: (list(words.values()), list(words)), lambda values, names: Keywords(zip(names, values, strict=True)),
    serialized_type_name="humar_bench.args.Keywords",
)


def called(model: Callable[..., Any], inputs: Sequence[Any]) -> Any:
    """The outputs of `model` for these inputs."""
    *positional, last = inputs
    return model(*positional, **last) if isinstance(last, Keywords) else model(*inputs)
