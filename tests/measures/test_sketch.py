"""What a sketch says of a design is what is counted of it, whatever was sketched before."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from torch import nn

from humar_bench.args import EFFICIENT_PREFIX, ModelArgs, Workload
from humar_bench.errors import MeasurementError, UsageError
from humar_bench.measures.flops import count_flops
from humar_bench.measures.memory_prediction import predict_built
from humar_bench.measures.sketch import Sketcher
from humar_bench.studies.search.space import NAMED_ALONE
from humar_bench.studies.switches import switches_of
from humar_bench.subjects.registry import build, load_builder
from humar_bench.subjects.transformer import make_inputs

WORK = Workload.tiny(2)
SMALL = ModelArgs(hidden_dim=32, dec_layers=3, num_queries=WORK.num_queries, efficient_enc_layers=3)


def sketched(sketcher: Sketcher, args: ModelArgs, work: Workload = WORK, arch: str = "efficient"):
    builder = load_builder(arch)
    return sketcher.sketch(lambda: builder(args), make_inputs(args, work, device="meta"))


def designs(number: int, seed: int = 0) -> list[ModelArgs]:
    """Every switch alone, then draws of all of them together; without those that are searched only where they are named."""
    found = [dataclasses.replace(SMALL, **row.changes) for row in switches_of(SMALL) if not NAMED_ALONE & row.changes.keys()]
    draw = random.Random(seed)
    options = [each for each in dataclasses.fields(ModelArgs) if each.name.startswith(EFFICIENT_PREFIX) and each.name not in NAMED_ALONE]
    while len(found) < number:
        changes = {}
        for each in options:
            kind, choices = type(each.default), each.metadata.get("choices")
            changes[each.name] = draw.choice(choices or ((True, False) if kind is bool else (1, 2, 4)))
        try:
            found.append(dataclasses.replace(SMALL, hidden_dim=draw.choice((16, 32)), dec_layers=draw.choice((1, 2, 3)), **changes))
        except UsageError:  # sets beyond layers
            continue
    return found


def hold(sketcher: Sketcher, args: ModelArgs, work: Workload = WORK, *, peak: bool) -> None:
    """A design's sketch against what is counted and predicted."""
    found, model = sketched(sketcher, args, work), build("efficient", args, device="meta")
    assert found.parameters == sum(each.numel() for each in model.parameters())
    assert found.matmul_flops == count_flops(model, make_inputs(args, work, device="meta")).matmul_flops, args
    if peak:
        predicted = predict_built(model, lambda: make_inputs(args, work)).peak
        assert found.peak_bytes == pytest.approx(predicted.peak_bytes, rel=0.02), args


def test_parameters_and_flops_are_those_that_are_counted_and_the_peak_is_the_predicted_one():
    sketcher = Sketcher()
    for index, args in enumerate(designs(26)[::4]):
        hold(sketcher, args, peak=index % 4 == 1)


def test_what_was_sketched_before_changes_nothing():
    sketcher = Sketcher()
    forwards = [sketched(sketcher, args) for args in designs(24)[::3]]
    assert forwards == [sketched(Sketcher(), args) for args in designs(24)[::3]]
    known = len(sketcher.known)
    assert forwards == [sketched(sketcher, args) for args in designs(24)[::3]] and len(sketcher.known) == known


def test_mixing_is_what_has_no_weights_and_capacity_counts_a_tied_layer_less_than_an_untied_one():
    sketcher = Sketcher()
    base = sketched(sketcher, SMALL)
    instance, every = (sketched(sketcher, dataclasses.replace(SMALL, efficient_cross_tokens=tokens)) for tokens in ("instance", "all"))
    assert every.mixing_flops > instance.mixing_flops > base.mixing_flops and every.parameters == instance.parameters > base.parameters
    untied = sketched(sketcher, dataclasses.replace(SMALL, efficient_decoder_sets=3))
    assert untied.mixing_flops == base.mixing_flops and untied.capacity > base.capacity > base.parameters
    once = sketched(sketcher, dataclasses.replace(SMALL, dec_layers=1, efficient_enc_layers=2, efficient_encoder_sets=2))
    assert once.capacity == pytest.approx(once.parameters, rel=0.05)


class Twice(nn.Module):
    """One layer, used twice, and a product of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.layer(x)) @ x.mT


def test_figures_by_hand():
    found = Sketcher().sketch(Twice, [torch.empty(4, 8, device="meta")])
    assert (found.parameters, found.matmul_flops, found.mixing_flops) == (64, 2 * 2 * 4 * 8 * 8 + 2 * 4 * 4 * 8, 2 * 4 * 4 * 8)
    assert found.capacity == pytest.approx(64 * 2**0.5) and found.peak_bytes == 2 * 4 * 8 * 4


def test_a_forward_that_reads_values_cannot_be_sketched():
    class Reads(nn.Module):
        def forward(self, x):
            return x[: int(x.sum())]

    with pytest.raises(MeasurementError, match="the design cannot be sketched"):
        Sketcher().sketch(Reads, [torch.empty(4, device="meta")])
    assert nn.Module.__call__ is Reads.__call__ and nn.init.zeros_(torch.ones(2)).sum() == 0  # everything is put back


@pytest.mark.slow
def test_many_designs_at_the_size_that_is_searched():
    sketcher, work = Sketcher(), Workload.uniphd(1)
    for args in designs(50, seed=1):
        hold(sketcher, dataclasses.replace(args, hidden_dim=4 * args.hidden_dim, num_queries=work.num_queries), work, peak=True)
