"""Memory as strangers use it: gradients turned on inside, weights reached past the model, operators that call functions."""

from __future__ import annotations

import functools
import os
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from humar_bench.devices.device import CpuDevice
from humar_bench.measures.memory import measure_memory
from humar_bench.records.contradictions import contradictions
from humar_bench.report.memory_table import memory_tables

B, N, C = 2, 40, 16
MAP = B * N * C * 4
MIB = 2**20


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


def test_strangers_a_forward_that_leaves_inference_mode_to_differentiate_is_measured_with_its_graph():
    class Slope(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(C, C)

        def forward(self, x):
            with torch.inference_mode(False), torch.enable_grad():
                with torch.no_grad():
                    y = x.clone()
                y.requires_grad_()
                return torch.autograd.grad(self.linear(y).tanh().sum(), y)[0]

    memory = peak_of(Slope)
    assert memory.predicted_bytes == memory.allocator_bytes == 3 * MAP + 8  # the copy, tanh and its gradient; a sum and its gradient, a 1
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled() and torch._C._InferenceMode.__module__ == "torch._C"


@pytest.mark.parametrize("make", [lambda size: np.ones(size // 8), lambda size: bytearray(size)], ids=["numpy", "a buffer"])
def test_strangers_memory_of_numpy_and_python_is_told_beside_the_peak(make):
    class Holds(nn.Module):
        def forward(self, x):
            held = make(32 * MIB)
            return x * 2 + 0 * len(held[:1])

    memory = peak_of(Holds)
    assert memory.peak_bytes < MIB and memory.difference_bytes == 0
    assert 32 * MIB <= memory.python_bytes < 33 * MIB
    feet = memory_tables({"holds": memory.measured()}, {}, "holds")[0].feet
    assert any(f"holds: NOT IN THE PEAK, numpy and Python held up to {memory.python_bytes:,} bytes at once." == each for each in feet)


def test_strangers_an_ordinary_forward_holds_next_to_nothing_outside():
    memory = peak_of(Closure)
    assert memory.python_bytes < 2**20 // 4
    assert not any("NOT IN THE PEAK" in each for each in memory_tables({"plain": memory.measured()}, {}, "plain")[0].feet)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system does not let the resident set begin anew")
def test_strangers_memory_of_another_thread_shows_against_the_resident_set():
    class Threaded(nn.Module):
        def forward(self, x):
            made = []
            thread = threading.Thread(target=lambda: made.append(float(torch.ones(96 * MIB // 4).sum())))
            thread.start()
            thread.join()
            return x + made[0]

    memory = peak_of(Threaded)
    assert memory.resident_growth_bytes > 90 * MIB
    feet = memory_tables({"threaded": memory.measured()}, {}, "threaded")[0].feet
    assert any("threaded: NOT IN THE PEAK, during a forward its process grew by" in each for each in feet)


def test_strangers_memory_of_a_forward_with_tangents_is_measured():
    class Slope(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8, bias=False)

        def forward(self, x):
            return torch.func.jvp(self.layer, (x[..., :8],), (torch.ones_like(x[..., :8]),))

    assert peak_of(Slope).peak_bytes > 0


def test_strangers_the_larger_of_what_was_predicted_and_what_was_reported_stands():
    class More(nn.Module):
        def forward(self, x):
            wide = x.repeat(1, 1, 4) if isinstance(x, FakeTensor) else x
            return wide.sum() + x

    memory = peak_of(More)
    assert memory.peak_bytes == memory.predicted_bytes > memory.allocator_bytes and memory.difference_bytes < 0
    assert contradictions("memory", memory.measured(), {}, {}) == []
    reported = memory.peak_bytes - memory.allocator_bytes
    feet = memory_tables({"more": memory.measured()}, {}, "more")[0].feet
    assert f"more: torch's allocator reported {reported:,} bytes less than is alive; the larger stands." in feet


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


@pytest.mark.filterwarnings("ignore:flex_attention called without:UserWarning")  # torch says it once a process
def test_strangers_cond_and_flex_attention_are_measured():
    class Flex(nn.Module):
        def forward(self, x):
            from torch.nn.attention.flex_attention import flex_attention

            heads = x.unflatten(2, (2, 8)).transpose(1, 2)
            return flex_attention(heads, heads, heads)

    flex = peak_of(Flex)
    assert flex.peak_bytes >= 2 * B * 2 * N * N * 4  # scores before and after their softmax
    assert peak_of(Branches).peak_bytes >= MAP
