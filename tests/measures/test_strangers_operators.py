"""Operators of models of today: routed experts, sparse reductions, losses, quantised layers, marks for a profiler: each is counted."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from humar_bench.measures.exact import count_exactly
from humar_bench.measures.flops import count_flops
from tests.small_modules import Calls

B, T, C, D = 2, 6, 8, 16


def flops(function, *inputs, **modules):
    return count_flops(Calls(function, **modules).eval(), inputs or (torch.randn(B, T, C),))


def experts(self, x):
    ends = torch.tensor([4, 12], dtype=torch.int32)
    return torch._grouped_mm(x.reshape(-1, C).bfloat16(), torch.ones(2, C, D, dtype=torch.bfloat16, device=x.device), offs=ends)


def neighbours(self, x):
    links = torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 1, 1]]).to_sparse_csr()
    return torch.sparse.mm(links, x[0, :3], "mean")


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize(("does", "expected"), [(experts, 2 * B * T * C * D), (neighbours, 2 * 5 * C)])
def test_strangers_products_of_experts_and_of_sparse_reductions_are_counted(does, expected):
    count = flops(does)
    assert count.matmul_flops == expected and count.uncounted == ()


def places(x):
    return torch.zeros(B, T, C, dtype=torch.long, device=x.device)


@pytest.mark.parametrize(("does", "tier", "expected"), [
    (lambda self, x: torch.zeros_like(x).scatter_reduce(1, places(x), x, "amax"), "elementwise", B * T * C),
    (lambda self, x: x.index_reduce(1, places(x)[0, :, 0], x, "mean"), "elementwise", B * T * C),
    (lambda self, x: F.nll_loss(x.reshape(-1, C), places(x)[..., 0].flatten()), "reduction", B * T),
    (lambda self, x: F.mse_loss(x, x), "reduction", 3 * B * T * C),
    (lambda self, x: torch.linalg.cross(x[..., :3], x[..., :3]), "elementwise", 3 * B * T * 3),
], ids=["scatter_reduce", "index_reduce", "nll_loss", "mse_loss", "cross"])
def test_strangers_reductions_to_places_losses_and_cross_products_have_their_coefficient(does, tier, expected):
    count = flops(does)
    assert count.second_tier == {tier: expected} and count.uncounted == () and count.matmul_flops == 0


def marked(self, x):
    with torch.profiler.record_function("here"):
        return self.layer(x)


def grown_in_place(self, x):
    x = self.layer(x)
    return x.clone().resize_(T, B, D).resize_as_(x)


@pytest.mark.parametrize("does", [marked, grown_in_place, lambda self, x: torch.permute_copy(self.layer(x), (1, 0, 2))])
def test_strangers_markers_new_shapes_and_copies_of_views_cost_nothing_and_leave_nothing_out(does):
    count = flops(does, layer=nn.Linear(C, D, bias=False))
    assert count.uncounted == () and count.matmul_flops == 2 * B * T * C * D and count.second_tier_flops == 0


def quantised(*layers):
    quantization = torch.ao.quantization
    model = nn.Sequential(quantization.QuantStub(), *layers, quantization.DeQuantStub()).eval()
    model.qconfig = quantization.get_default_qconfig("x86")
    quantization.prepare(model, inplace=True)(torch.randn(B, T, C))
    return quantization.convert(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("make", "weights", "expected"), [
    (lambda: nn.Linear(C, D), C * D + D, 2 * B * T * C * D),
    (lambda: nn.Conv1d(T, 4, 3, bias=False), 4 * T * 3, 2 * B * 4 * (C - 2) * T * 3),
], ids=["linear", "convolution"])
def test_strangers_statically_quantised_layers_are_counted_whole(make, weights, expected):
    exact = count_exactly(quantised(make()), (torch.randn(B, T, C),))
    assert exact.flops.matmul_flops == expected and exact.flops.uncounted == ()
    assert [(row.elements, row.kind) for row in exact.dead_weight.unregistered] == [(weights, "qint8")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_strangers_layers_prepared_for_quantised_training_are_counted_whole():
    model = nn.Sequential(nn.Linear(C, D, bias=False)).train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    torch.ao.quantization.prepare_qat(model, inplace=True)(torch.randn(B, T, C))
    count = count_flops(model.eval(), (torch.randn(B, T, C),))
    assert count.matmul_flops == 2 * B * T * C * D and count.uncounted == ()
