"""What only a real CUDA device can prove of the whole model: it never waits for the host, and computes what the CPU computes."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_map

from tests.tolerance import chained_terms
from tests.uniphd.recipe import Case, agree, outputs_by_name

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("transformer", ["original", "efficient"])
@pytest.mark.parametrize("kind", ["text", "point", "scribble"])
def test_from_maps_waits_for_nothing_and_equals_the_cpu(kind, transformer):
    case = Case.of("heads-tiny")
    model, (*inputs, sizes) = case.model(transformer), case.inputs(kind)
    with torch.inference_mode():
        expected = outputs_by_name(model.from_maps(*inputs, sizes))
        model.cuda()
        on_device = tree_map(lambda each: each.cuda(), inputs)
        model.from_maps(*on_device, sizes)  # loads what the first call loads
        torch.cuda.set_sync_debug_mode("error")
        try:
            outputs = model.from_maps(*on_device, sizes)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for name, each in outputs_by_name(outputs).items():
        agree(name, each.cpu(), expected[name].numpy(), terms=2 * chained_terms(model))  # both are rounded
