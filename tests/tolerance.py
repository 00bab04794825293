"""How far two computations of the same numbers may lie apart: by the number type and the size of what is compared, not by one machine.

AVX2, AVX-512 and NEON add the same numbers in another order: they round elsewhere, not more often. A rounding moves a partial result by at
most half an eps of its size, and roundings fall either way, so that over n additions they grow with the square root of n: the error is at
most FACTOR * eps * scale * sqrt(terms) (Higham and Mary 2019, "A New Approach to Probabilistic Rounding Error Analysis").
Where equality is the point, both sides are computed in float64: there a fault is a million times larger than what is allowed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tests.models import outputs_by_name

FACTOR = 8.0  # 16 of their half eps: roundings that fall either way do not add up to more in the life of a test suite


def tolerance(dtype: torch.dtype, scale: float, terms: int = 1) -> float:
    """The largest difference that rounding explains: `scale` is the size of what is added up, `terms` how many numbers are."""
    return FACTOR * torch.finfo(dtype).eps * scale * math.sqrt(terms)


def largest(tensor: Tensor) -> float:
    """The largest magnitude in a tensor, 0 in an empty one."""
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0


def assert_close(
    made: Tensor, expected: Tensor, *, terms: int = 1, scale: float | None = None, dtype: torch.dtype | None = None, name: str = ""
) -> None:
    """`made` is `expected` but for rounding, element by element.

    `dtype` is what was computed in where the coarser of the two types is not; what `made` is then rounded to, once, is allowed for.
    `scale` is the size of what is added up where it is larger than the results, which may cancel.
    """
    stored = max((made.dtype, expected.dtype), key=lambda each: torch.finfo(each).eps)
    dtype = dtype or stored
    atol = tolerance(dtype, largest(expected) if scale is None else scale, terms)
    rtol = torch.finfo(stored).eps if torch.finfo(stored).eps > torch.finfo(dtype).eps else 0.0
    torch.testing.assert_close(made.double(), expected.double(), atol=atol, rtol=rtol, msg=lambda text: f"{name}: {text}" if name else text)


def chained_terms(model: nn.Module) -> int:
    """How many numbers are added up on the way through a whole model at most: each matrix adds as many as it has inputs."""
    return sum(each.numel() // len(each) for each in model.parameters() if each.dim() > 1)


def assert_outputs_close(made: tuple, expected: tuple, *, terms: int, dtype: torch.dtype | None = None) -> None:
    """The five outputs of the shared call, each by its name."""
    found, wanted = outputs_by_name(made), outputs_by_name(expected)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert_close(found[name], value, terms=terms, dtype=dtype, name=name)
