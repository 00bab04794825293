"""Peak memory: predicted from shapes alone, equal to what the allocator really gave out, to the byte."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from humar_bench.args import BUILT_IN
from humar_bench.devices.device import CpuDevice
from humar_bench.devices.virtual import VirtualDevice
from humar_bench.measures.allocator import Allocation, Replay, allocator_peak, replay
from humar_bench.measures.live_memory import track_peak
from humar_bench.measures.memory import measure_memory, measure_peak
from humar_bench.measures.memory_prediction import predict_peak
from humar_bench.measures.outside import resident_bytes
from humar_bench.measures.storages import LiveStorages, current_component, storage_bytes
from humar_bench.records.record import plain
from humar_bench.subjects.registry import build
from humar_bench.subjects.transformer import make_inputs

MIB = 2**20
B, N, C = 2, 120, 64


class Calls(nn.Module):
    """A module that calls a function with its one [C, C] weight."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(C, C) / 8)

    def forward(self, *inputs):
        return self.function(self.weight, *inputs)


class TwoParts(nn.Module):
    def __init__(self, hidden=256, planted_mib=0):
        super().__init__()
        self.wide, self.narrow, self.planted_mib = nn.Linear(C, hidden), nn.Linear(hidden, C), planted_mib

    def forward(self, x):
        planted = torch.empty(self.planted_mib * MIB, dtype=torch.uint8)
        return self.narrow(self.wide(x).relu()), planted.numel()


def tokens():
    return (torch.randn(B, N, C),)


def tokens_and_grid():
    return torch.randn(B, N, C), torch.rand(B, 15, 15, 2)


def attend(weight, x):
    scores = (x @ weight) @ x.transpose(1, 2)
    return scores.masked_fill(scores < -3, float("-inf")).softmax(-1) @ x


CASES = {
    "linear": (lambda w, x: F.linear(F.linear(x, w).relu(), w), tokens),
    "attention": (attend, tokens),
    "einsum": (lambda w, x: torch.einsum("bnc,bmc->bnm", x @ w, x), tokens),
    "norm": (lambda w, x: F.layer_norm(F.gelu(x @ w), (C,)), tokens),
    "grid": (lambda w, x, g: F.grid_sample((x @ w).mT.unflatten(2, (12, 10)), g, align_corners=False).sigmoid(), tokens_and_grid),
    "constants": (lambda w, x: (x @ w) * torch.tensor([1.5] * C) + torch.arange(C) + torch.ones(N, C), tokens),
    "products": (lambda w, x: torch.baddbmm(x @ x.mT, x @ w, x.mT).relu(), tokens),
}
ONLY_FORWARD = {
    "topk and gather": (lambda w, x: (x @ w).gather(1, torch.topk(x.mean(-1), 5)[1][..., None].expand(-1, -1, C)), tokens),
}


def memory_of(function, inputs, training=False):
    return measure_memory(lambda: Calls(function), inputs, CpuDevice(), training=training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_prediction_is_the_allocators_peak_to_the_byte(case, training):
    memory = memory_of(*CASES[case], training=training)
    assert memory.predicted_bytes + memory.workspace_bytes == memory.allocator_bytes == memory.peak_bytes
    assert memory.workspace_bytes <= (64 if training else 0)  # numbers kept as 8-byte tensors for the backward
    assert memory.difference_bytes == 0 and sum(memory.by_component.values()) == memory.predicted_bytes
    assert memory.predicted_bytes > B * N * C * 4


@pytest.mark.parametrize("case", ONLY_FORWARD)
def test_selecting_tokens_is_predicted_to_the_byte(case):
    memory = memory_of(*ONLY_FORWARD[case])
    assert memory.predicted_bytes == memory.allocator_bytes and memory.difference_bytes == 0


def test_the_peak_of_two_layers_is_what_their_shapes_say():
    memory = measure_memory(TwoParts, tokens, CpuDevice())
    hidden, out, four = B * N * 256, B * N * C, 4
    assert memory.peak_bytes == 2 * hidden * four  # the hidden map before and after its ReLU
    assert memory.peak_operator == "aten.relu.default" and memory.peak_component == "(top)"
    assert memory.by_component == {"wide": hidden * four, "(top)": hidden * four}
    assert sorted((each.shape, each.dtype, each.bytes, each.operator) for each in memory.alive) == [
        ((B, N, 256), "float32", hidden * four, "aten.relu.default"),
        ((B * N, 256), "float32", hidden * four, "aten.addmm.default"),
    ]
    assert memory.outputs_bytes == out * four and memory.inputs_bytes == B * N * C * four
    assert memory.weights_bytes == (2 * C * 256 + 256 + C) * four and memory.buffers_bytes == 0
    assert memory.resident_bytes is None or memory.resident_bytes > 50 * MIB


@pytest.mark.parametrize("mib", [1, 10])
def test_a_planted_tensor_raises_the_peak_by_its_own_size(mib):
    without, planted = (measure_memory(lambda n=n: TwoParts(planted_mib=n), tokens, CpuDevice()) for n in (0, mib))
    assert planted.peak_bytes - without.peak_bytes == mib * MIB == planted.predicted_bytes - without.predicted_bytes


def test_the_order_of_measuring_changes_nothing():
    def alone(hidden):
        measured = plain(measure_memory(lambda: TwoParts(hidden), tokens, CpuDevice()).measured())
        return {name: value for name, value in measured.items() if not name.startswith(("resident", "python"))}

    a, b = alone(200), alone(300)
    assert a["peak_bytes"] < b["peak_bytes"]
    assert [alone(300), alone(200)] == [b, a] and [alone(200), alone(300)] == [a, b]


def test_a_library_that_takes_hidden_workspace_is_told_apart_from_the_tensors():
    def convolve(weight, x):
        return F.conv2d(x.mT.unflatten(2, (12, 10)), weight[..., None, None].expand(C, C, 3, 3), padding=1)

    def fused(weight, x):
        return F.scaled_dot_product_attention(x[:, None], (x @ weight)[:, None], x[:, None])

    for function in (convolve, fused):
        memory = memory_of(function, tokens)
        assert memory.peak_bytes == memory.predicted_bytes + memory.workspace_bytes and memory.difference_bytes == 0
    assert memory.workspace_bytes > 0  # fused attention has buffers of its own on every CPU


def test_a_number_turned_into_a_tensor_for_an_operator_is_workspace():
    memory = memory_of(lambda w, x: (x @ w) / 3.0, tokens)
    assert memory.workspace_bytes <= 12 and memory.difference_bytes == 0 and memory.predicted_bytes == 2 * B * N * C * 4


def test_a_trace_is_replayed_with_and_without_hidden_blocks():
    def block(pointer, size, operator):
        return Allocation(pointer, size, operator)

    trace = [block(1, 100, 0), block(2, 50, 0), block(2, -50, 0), block(3, 30, 1), block(3, -30, 1), block(3, 20, 1), block(1, -100, 2)]
    assert replay(trace, {0: {1}, 1: {3}}) == Replay(all_bytes=150, tensor_bytes=120)
    assert replay(trace, {0: {1, 2}, 1: {3}}) == Replay(all_bytes=150, tensor_bytes=150)
    assert replay([], {}) == Replay(0, 0)
    assert replay([block(9, -40, 0), block(1, 10, 0)], {0: {1}}).all_bytes == 0  # older memory given back is no tensor of this forward


def test_the_prediction_needs_no_memory():
    eight_tib = 2**43
    peak = predict_peak(lambda: nn.Linear(2**20, 2**21), lambda: (torch.randn(4, 2**20),))
    assert peak.weights_bytes == eight_tib + 4 * 2**21 and peak.peak_bytes == peak.outputs_bytes == 4 * 2**21 * 4


def test_weights_and_inputs_that_share_memory_count_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(C, C, bias=False), nn.Linear(C, C, bias=False)
            self.b.weight = self.a.weight
            self.register_buffer("scale", torch.ones(3))

        def forward(self, x, same):
            return self.b(self.a(x)) + same

    def inputs():
        x = torch.randn(5, C)
        return x, (x + 1)[:2, :1], [x[1:2]]

    class Three(Tied):
        def forward(self, x, small, more):
            return super().forward(x, more[0])

    peak = predict_peak(Three, inputs)
    assert (peak.weights_bytes, peak.buffers_bytes) == (C * C * 4, 12)
    assert peak.inputs_bytes == 5 * C * 4 + 5 * C * 4  # x once, and all of what lies under a small view
    assert peak.peak_bytes == 2 * 5 * C * 4


def test_a_half_precision_model_needs_half(tiny_args, tiny_workload):
    def peak(dtype):
        return predict_peak(lambda: build("original", tiny_args, dtype=dtype), lambda: make_inputs(tiny_args, tiny_workload, dtype=dtype))

    assert peak(torch.float32).weights_bytes == 2 * peak(torch.bfloat16).weights_bytes


def test_a_model_that_looks_at_values_is_measured_without_a_prediction():
    memory = memory_of(lambda w, x: (x @ w)[x > 0] * 2.0, tokens)
    assert memory.predicted_bytes is None and memory.difference_bytes is None and "on fake tensors" in memory.method
    assert sum(memory.by_component.values()) + memory.workspace_bytes == memory.peak_bytes == memory.allocator_bytes > 0


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if "-" in name else ()) for name in BUILT_IN])
def test_the_built_in_architectures_are_predicted_to_the_byte(tiny_args, tiny_workload, name, training):
    memory = measure_memory(lambda: build(name, tiny_args), lambda: make_inputs(tiny_args, tiny_workload), CpuDevice(), training=training)
    assert memory.difference_bytes == 0
    if not training:
        assert memory.predicted_bytes + memory.workspace_bytes == memory.peak_bytes == memory.allocator_bytes
    assert sum(memory.by_component.values()) == sum(each.bytes for each in memory.alive) == memory.predicted_bytes
    assert plain(memory.measured())["alive"][0]["bytes"] == max(each.bytes for each in memory.alive)


def test_measuring_leaves_the_model_as_it_was_also_when_it_raises():
    model = TwoParts().train()
    model.narrow.eval()
    state = copy.deepcopy(model.state_dict())
    before = {name: copy.copy(vars(module)) for name, module in model.named_modules()}
    hooks = nn.modules.module
    track_peak(model, tokens())
    measure_peak(model, tokens(), CpuDevice(), training=True)
    with pytest.raises(RuntimeError):
        track_peak(model, (torch.randn(3, 5),))
    with pytest.raises(RuntimeError):
        measure_peak(model, (torch.randn(3, 5),), CpuDevice())
    assert model.training and not model.narrow.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    assert {name: vars(module) for name, module in model.named_modules()} == before
    assert all(each.grad is None for each in model.parameters())
    assert not hooks._global_forward_hooks and not hooks._global_forward_pre_hooks


def test_the_component_is_that_of_the_innermost_named_module():
    model = nn.Module()
    model.components = (("encoder", "encoder"), ("encoder.conv", "local convolution"))
    model.encoder = nn.Sequential()
    model.encoder.conv = nn.Identity()
    seen = []
    with current_component(model) as component:
        seen.append(component())
        model.encoder.conv.register_forward_pre_hook(lambda *_: seen.append(component()))
        model.encoder.register_forward_pre_hook(lambda *_: seen.append(component()))
        model.encoder(torch.ones(1))
        seen.append(component())
    assert seen == ["(top)", "encoder", "local convolution", "(top)"]
    model.components = (("", "frame"),)
    with current_component(model) as component:
        assert component() == "frame"


def test_storages_resized_in_place_are_followed():
    with LiveStorages([], lambda: "here") as live:
        x = torch.empty(1000)
        x.resize_(3000)
        assert live.live_bytes == live.peak_bytes == 12000 and storage_bytes([x, x[:2]]) == 12000
        assert live.at_peak[0].component == "here"
        del x
        assert live.live_bytes == 0 and live.peak_bytes == 12000


def test_the_allocators_peak_is_above_what_was_there_and_counts_what_was_freed_in_between():
    def call():
        a = torch.empty(5 * MIB, dtype=torch.uint8)
        del a
        return torch.empty(3 * MIB, dtype=torch.uint8)

    there = torch.empty(50 * MIB, dtype=torch.uint8)
    assert allocator_peak(call) == 5 * MIB and there.numel() == 50 * MIB


def test_on_a_device_the_peaks_stand_above_the_warm_baseline():
    device = VirtualDevice()

    class OnDevice(nn.Module):
        """Keeps a library workspace from its first call on; each forward holds a and b at once, then c."""

        def __init__(self):
            super().__init__()
            self.workspace = None

        def forward(self, x):
            allocator = device.allocator
            if self.workspace is None:
                self.workspace = allocator.allocate(8 * MIB)
                allocator.free(allocator.allocate(100 * MIB))  # a first call's own
            a, b = allocator.allocate(3 * MIB + 1), allocator.allocate(100)
            allocator.free(a)
            allocator.free(b)
            allocator.free(allocator.allocate(2 * MIB))
            return x + 1

    device.allocator.allocate(64 * MIB)  # weights
    memory = measure_memory(OnDevice, lambda: (torch.ones(4),), device)
    assert memory.cuda.peak_requested_bytes == memory.allocator_bytes == 3 * MIB + 1 + 100
    assert memory.cuda.peak_allocated_bytes == memory.peak_bytes == 3 * MIB + 512 + 512
    assert memory.cuda.peak_reserved_bytes >= 72 * MIB and memory.cuda.nvml_process_bytes >= 72 * MIB
    assert memory.predicted_bytes == 16 and memory.difference_bytes == 3 * MIB + 101 - 16 and memory.workspace_bytes is None


def test_the_footprint_is_the_highest_so_far():
    before = resident_bytes()
    if before is None:
        pytest.skip("this system has no /proc")
    big = torch.ones(64 * MIB, dtype=torch.uint8)
    during = resident_bytes()
    del big
    assert during >= before > 0 and resident_bytes() > during - MIB  # the kernel counts in batches


def test_a_constant_made_in_a_real_forward_counts_while_it_lives():
    class Constant(nn.Module):
        def forward(self, x):
            table = torch.tensor([1.0] * 1000)
            return x + table

    peak = track_peak(Constant(), (torch.ones(1000),))
    assert peak.peak_bytes == 8000 and len(peak.alive) == 2


def test_a_submodule_that_raises_and_is_caught_is_left_all_the_same():
    class Fails(nn.Module):
        def forward(self, x):
            raise ValueError("not today")

    class Catches(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Fails()

        def forward(self, x):
            try:
                return self.inner(x)
            except ValueError:
                return x + 1

    assert track_peak(Catches(), (torch.ones(4),)).by_component == {"(top)": 16}
