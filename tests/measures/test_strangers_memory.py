"""Memory as strangers use it: gradients turned on inside, weights reached past the model, operators that call functions."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from humar_bench.devices.device import CpuDevice
from humar_bench.measures.memory import measure_memory

B, N, C = 2, 40, 16
MAP = B * N * C * 4


def tokens():
    return (torch.randn(B, N, C),)


def peak_of(build):
    return measure_memory(lambda: build().eval(), tokens, CpuDevice())


class Layers(nn.Module):
    """Several layers in a row, one map alive beside the next: what a graph would keep shows at once."""

    def __init__(self, grad, depth=6):
        super().__init__()
        self.grad, self.layers = grad, nn.ModuleList(nn.Linear(C, C) for _ in range(depth))

    def forward(self, x):
        with self.grad():
            for layer in self.layers:
                x = layer(x)
        return x.mean()


@pytest.mark.parametrize("grad", [torch.enable_grad, functools.partial(torch.set_grad_enabled, True), torch.no_grad])
def test_strangers_gradients_turned_on_inside_are_predicted_as_inference_mode_runs_them(grad):
    memory = peak_of(lambda: Layers(grad))
    assert memory.predicted_bytes == memory.allocator_bytes == 2 * MAP and memory.difference_bytes == 0
    assert torch.is_grad_enabled()


def test_strangers_a_decorated_forward_that_turns_gradients_on_is_too():
    class Decorated(Layers):
        @torch.enable_grad()
        def forward(self, x):
            return super().forward(x)

    memory = peak_of(lambda: Decorated(torch.enable_grad))
    assert memory.predicted_bytes == memory.allocator_bytes == 2 * MAP


class Closure(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(C, C)
        self.act = lambda x: self.linear(x).relu()

    def forward(self, x):
        return self.act(x)


def test_strangers_weights_reached_through_a_closure_are_no_memory_of_the_forward():
    memory = peak_of(Closure)
    assert memory.predicted_bytes == memory.allocator_bytes == 2 * MAP and memory.weights_bytes == 4 * (C * C + C)


class Branches(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > -1e9, lambda t: t * 2, lambda t: t - 1, (x,))


def test_strangers_cond_and_flex_attention_are_measured():
    class Flex(nn.Module):
        def forward(self, x):
            from torch.nn.attention.flex_attention import flex_attention

            heads = x.unflatten(2, (2, 8)).transpose(1, 2)
            return flex_attention(heads, heads, heads)

    with pytest.warns(UserWarning, match="flex_attention called without torch.compile"):
        flex = peak_of(Flex)
    assert flex.peak_bytes >= 2 * B * 2 * N * N * 4  # scores before and after their softmax
    assert peak_of(Branches).peak_bytes >= MAP
