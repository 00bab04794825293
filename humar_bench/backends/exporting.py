"""torch.export of a forward, for the backends that run outside torch: the program, and its flat outputs put back into the five."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from humar_bench.backends.tensors import plain
from humar_bench.errors import MeasurementError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters warn and log about themselves and about packages that nobody asked for."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def export(model: nn.Module, inputs: Any) -> torch.export.ExportedProgram:
    """The forward as one graph for inputs of these shapes. Raises MeasurementError with torch's reason where it is none."""
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(model, ordinary(plain(inputs)), strict=False)
    except Exception as error:
        raise MeasurementError(f"torch.export cannot make one graph of it: {reason(error)}.") from error


def ordinary(inputs: Any) -> Any:
    """The inputs as tensors that were not made in inference mode."""
    return pytree.tree_map(lambda each: each.detach().clone() if each.is_inference() else each, inputs)


def unflattener(program: torch.export.ExportedProgram) -> Callable[[Sequence[Tensor]], Any]:
    """What makes the five outputs of a program's flat ones; it holds on to the layout alone, not to the program and its weights."""
    layout = program.call_spec.out_spec
    return lambda flat: pytree.tree_unflatten(list(flat), layout)


def reason(error: BaseException) -> str:
    """The first line of what an exporter says, which may be pages, without its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = (lines[0] if lines else "no message").rstrip(".")
    return f"{type(error).__name__}: {said[:200]}"
