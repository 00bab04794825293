"""A forward leaves what everybody in its process calls as it found it: torch's functions and the clocks.

A model that replaces one of them, with a version of its own or with one more wrapper at each call, changes what every other model and the
measuring itself runs from then on: it may make them slower, wrong or endless.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import torch

from humar_bench.errors import MeasurementError

SHARED = {  # how it is called -> whose names are held; a new name replaces nothing
    "torch": torch, "torch.Tensor": torch.Tensor, "torch.nn.functional": torch.nn.functional, "torch.nn.Module": torch.nn.Module,
    "torch.linalg": torch.linalg, "torch.fft": torch.fft, "torch.autograd": torch.autograd, "torch.cuda": torch.cuda, "time": time,
    **{f"torch.nn.{name}": each for name, each in vars(torch.nn).items() if isinstance(each, type) and issubclass(each, torch.nn.Module)},
}
FOLLOWS_THE_DTYPE = ("torch", "Storage")  # torch itself sets it with the default number type
# Where torch's compiler, at its first use in a process, makes every module say when it was made, and wraps manual_seed
_TORCH = os.path.dirname(torch.__file__)
COMPILER = (os.path.join(_TORCH, "_dynamo", "mutation_guard.py"), os.path.join(_TORCH, "_compile.py"))


@contextlib.contextmanager
def left_untouched(who: str = "its forward") -> Iterator[None]:
    """Around a forward that is not timed, or a builder: `who`. What it replaced is put back, and MeasurementError raised that names it.

    Costs about a millisecond.
    """
    before = {owner: dict(vars(where)) for owner, where in SHARED.items()}
    try:
        yield
    finally:
        replaced = [name for owner, names in before.items() for name in _put_back(owner, names)]
    if replaced:
        more = f" and {len(replaced) - 1} more" if len(replaced) > 1 else ""
        raise MeasurementError(
            f"{who} replaces {replaced[0]}{more} for everything in its process, so that nothing can be measured beside it; call a function "
            "of its own instead."
        )


def _put_back(owner: str, before: dict[str, Any]) -> list[str]:
    """The functions that are no longer what they were, each as it was again."""
    where = SHARED[owner]
    now = dict(vars(where))
    replaced = [
        name for name, each in before.items()
        if callable(each) and now.get(name) is not each and not _compilers(now.get(name)) and (owner, name) != FOLLOWS_THE_DTYPE
    ]
    for name in replaced:
        setattr(where, name, before[name])
    inherited = {name for base in getattr(where, "__mro__", ())[1:] for name in vars(base)}  # a name of its own hides that one
    hidden = [name for name in now.keys() - before.keys() if name in inherited and callable(now[name])]
    for name in hidden:
        delattr(where, name)
    return [f"{owner}.{name}" for name in (*replaced, *sorted(hidden))]


def _compilers(each: Any) -> bool:
    """Whether torch's compiler put a function there."""
    return getattr(getattr(each, "__code__", None), "co_filename", "") in COMPILER
