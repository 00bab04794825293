"""Models whose work does not stand in their layers' own forwards: hooks, parametrizations, functional calls, vmap, routing by values,
derivatives. Counted as by hand. B images, T tokens of C numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from humar_bench.measures.exact import count_exactly
from tests.small_modules import Calls

B, T, C = 2, 6, 8
LAYER = 2 * B * T * C * C  # FLOP of one layer without bias
WEIGHTS = C * C


def layer():
    return nn.Linear(C, C, bias=False)


def hooked():
    model = nn.Sequential(layer(), layer())
    weight = model[0].weight
    model[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model.register_forward_hook(lambda module, args, outputs: outputs @ weight.T)
    return model


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).T


def parametrized():
    model = layer()
    nn.utils.parametrize.register_parametrization(model, "weight", Symmetric())
    return nn.Sequential(model)


def ensemble():
    stacked, _ = torch.func.stack_module_state([layer() for _ in range(3)])
    base = [copy.deepcopy(layer()).to("meta")]  # in a list, so that it is no module of the model's
    model = Calls(lambda self, x: torch.vmap(lambda weight: torch.func.functional_call(base[0], {"weight": weight}, (x,)))(self.weights))
    model.weights = nn.Parameter(stacked["weight"].detach())
    return model


def routed():
    def forward(self, x):
        rows = x.reshape(-1, C)
        out, first = torch.zeros_like(rows), rows.sum(-1) > 0
        for expert, chosen in ((self.one, first), (self.other, ~first)):
            place = chosen.nonzero()[:, 0]
            out.index_add_(0, place, expert(rows[place]))
        return out

    return Calls(forward, one=layer(), other=layer())


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = layer()

    def __call__(self, x):
        return super().__call__(super().__call__(x))

    def forward(self, x):
        return self.layer(x)


def packed():
    def forward(self, x):
        found, _ = self.rnn(nn.utils.rnn.pack_padded_sequence(x, torch.tensor([T, T - 2]), batch_first=True))
        return nn.utils.rnn.pad_packed_sequence(found, batch_first=True)[0]

    return Calls(forward, rnn=nn.GRU(C, C, bias=False, batch_first=True))


def attention():
    heads = nn.MultiheadAttention(C, 2, bias=False, batch_first=True)
    return Calls(lambda self, x: self.heads(x, x, x, need_weights=True, average_attn_weights=False), heads=heads)


def slope():
    return Calls(lambda self, x: torch.func.grad(lambda at: self.layer(at).square().sum())(x), layer=layer())


def tangent():
    return Calls(lambda self, x: torch.func.jvp(lambda at: at @ self.layer.weight, (x,), (torch.ones_like(x),)), layer=layer())


def by_hand():
    def forward(self, x):
        with torch.inference_mode(False), torch.enable_grad():
            at = x.clone().requires_grad_()
            return torch.autograd.grad(self.layer(at).square().sum(), at)[0]

    return Calls(forward, layer=layer())


def complex_convolution():
    return Calls(lambda self, x: self.layer(x.to(torch.complex64)).abs(), layer=nn.Conv1d(T, 4, 3, bias=False, dtype=torch.complex64))


@pytest.mark.parametrize(("make", "parameters", "flops"), [
    (hooked, 2 * WEIGHTS, 3 * LAYER),
    (parametrized, WEIGHTS, LAYER),
    (ensemble, 3 * WEIGHTS, 3 * LAYER),
    (routed, 2 * WEIGHTS, LAYER),
    (CalledTwice, WEIGHTS, 2 * LAYER),
    (packed, 6 * WEIGHTS, 2 * (2 * T - 2) * 6 * WEIGHTS),
    (attention, 4 * WEIGHTS, 4 * LAYER + 2 * 2 * B * T * T * C),
    (slope, WEIGHTS, 2 * LAYER),
    (by_hand, WEIGHTS, 2 * LAYER),
    (complex_convolution, 3 * 4 * T, 8 * B * 4 * 3 * T * (C - 2)),
])
def test_strangers_work_outside_the_layers_own_forwards_is_counted_as_by_hand(make, parameters, flops):
    model = make().eval()
    exact = count_exactly(model, (torch.randn(B, T, C),))
    assert sum(each.numel() for each in model.parameters()) == parameters and not exact.dead_weight.never_read
    assert exact.flops.matmul_flops == flops and exact.flops.outside == 0 and exact.flops.uncounted == ()


def test_strangers_tangents_leave_no_operator_uncounted():
    exact = count_exactly(tangent(), (torch.randn(B, T, C),))
    assert exact.flops.uncounted == () and exact.flops.matmul_flops >= 2 * LAYER
