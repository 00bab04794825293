"""The rule of `tolerance.py`: another order of additions passes, on this machine too, and what is not rounding does not."""

from __future__ import annotations

import pytest
import torch

from tests.tolerance import assert_close, chained_terms, tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("terms", [3, 1000, 100_000])
def test_a_sum_in_another_order_is_the_same_sum_and_one_without_its_largest_term_is_not(dtype, terms):
    numbers = torch.randn(20, terms, generator=torch.Generator().manual_seed(terms)).to(dtype)
    forwards, backwards = numbers.cumsum(1)[:, -1], numbers.flip(1).cumsum(1)[:, -1]
    scale = float(numbers.cumsum(1).abs().max())
    assert_close(forwards, backwards, terms=terms, scale=scale)
    with pytest.raises(AssertionError, match="^a sum: "):
        assert_close(forwards - numbers.abs().amax(1), backwards, terms=terms, scale=scale, name="a sum")


def test_what_is_stored_in_fewer_bits_may_be_rounded_once():
    exact = torch.tensor([1.001, -300.7, 0.0], dtype=torch.float64)
    assert_close(exact.bfloat16(), exact, dtype=torch.float32)
    with pytest.raises(AssertionError):
        assert_close((1.02 * exact).bfloat16(), exact, dtype=torch.float32)
    with pytest.raises(AssertionError):
        assert_close(exact + 1e-12, exact)


def test_it_grows_with_the_size_and_the_root_of_the_number_of_terms():
    assert tolerance(torch.float32, 6.0, 100) == 20 * tolerance(torch.float32, 3.0) == 8 * 2**-23 * 60
    assert chained_terms(torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Conv2d(7, 2, 3))) == 5 + 7 * 9
