"""Numbers that nobody registered are named; numbers that leave torch are noticed; what is read through a closure is read."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from humar_bench.measures.dead_weight import Unregistered, find_dead_weight
from humar_bench.measures.exact import count_exactly
from humar_bench.measures.flops import count_flops

N, C, D = 6, 8, 4
SHARED = torch.randn(C, D)


def x():
    return (torch.randn(N, C),)


class Does(nn.Module):
    """`parts` become attributes before they are used; none of them is registered."""

    def __init__(self, does, **parts):
        super().__init__()
        self.does = does
        for name, part in parts.items():
            self.__dict__[name] = part

    def forward(self, x):
        return self.does(self, x)


def named(model, inputs=None):
    dead = find_dead_weight(model, inputs or x())
    assert dead.never_read == ()
    return {row.name: (row.elements, row.bytes) for row in dead.unregistered}


# Nobody registered them ------------------------------------------------------------------------------------------------------------


def test_strangers_layers_in_a_list_are_named_with_their_sizes():
    model = Does(lambda self, x: functools.reduce(lambda t, layer: layer(t), self.layers, x), layers=[nn.Linear(C, C), nn.Linear(C, D)])
    assert named(model) == {
        "layers[0].weight": (C * C, 4 * C * C), "layers[0].bias": (C, 4 * C),
        "layers[1].weight": (C * D, 4 * C * D), "layers[1].bias": (D, 4 * D),
    }


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_strangers_a_dictionary_and_a_plain_attribute_are_named_wherever_the_model_was_built(device):
    with torch.device(device):
        model = Does(lambda self, x: x @ self.heads["pose"].weight.T + self.scale, heads={"pose": nn.Linear(C, D, dtype=torch.float64)},
                     scale=torch.ones(D, dtype=torch.float64))
        inputs = (torch.ones(N, C, dtype=torch.float64),)
    assert named(model, inputs) == {"heads['pose'].weight": (C * D, 8 * C * D), "scale": (D, 8 * D)}


def test_strangers_a_global_and_a_closure_are_named():
    hidden = torch.randn(D, 3)
    assert named(Does(lambda self, x: x @ SHARED @ hidden)) == {"does.SHARED": (C * D, 4 * C * D), "does.hidden": (3 * D, 12 * D)}


def test_strangers_what_is_registered_or_made_in_the_forward_or_never_read_is_not_named():
    class Ordinary(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.lstm = nn.Linear(C, D), nn.LSTM(D, D)
            self.register_buffer("mean", torch.zeros(C))
            self.flat = self.linear.weight.flatten()  # lies on a parameter
            self.idle = torch.randn(99)

        def forward(self, x):
            y = (x - self.mean) * torch.tensor([0.5] * C) + torch.arange(C)
            return self.lstm(self.linear(y) + F.linear(y, self.flat.view(D, C)))[0]

    assert named(Ordinary()) == {}


def test_strangers_a_large_tensor_and_one_with_a_graph_are_named():
    weight = nn.Parameter(torch.randn(C, C))
    model = Does(lambda self, x: (x @ self.doubled).repeat(1, 100) @ self.large, doubled=weight * 2, large=torch.randn(100 * C, 7))
    assert named(model) == {"large": (700 * C, 2800 * C), "doubled": (C * C, 4 * C * C)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_strangers_int8_layers_are_named_by_the_weights_that_are_packed_in_them():
    layers = nn.Sequential(nn.Linear(C, C), nn.ReLU(), nn.Linear(C, D))
    model = torch.ao.quantization.quantize_dynamic(layers, {nn.Linear}, dtype=torch.qint8)
    exact = count_exactly(model, x())
    rows = {row.name: row for row in exact.dead_weight.unregistered}
    first, last = "0._packed_params._packed_params", "2._packed_params._packed_params"
    assert rows == {
        first: Unregistered(first, C * C + C, C * C + 4 * C, "qint8"), last: Unregistered(last, C * D + D, C * D + 4 * D, "qint8"),
    }
    assert exact.flops.uncounted == () and exact.flops.matmul_flops == 2 * N * (C * C + C * D)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_strangers_an_int8_recurrent_cell_is_named_by_the_weights_in_it_once():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(C, D)

        def forward(self, x):
            return self.rnn(x[None])[0]

    model = torch.ao.quantization.quantize_dynamic(Recurrent(), {nn.LSTM}, dtype=torch.qint8)
    (row,) = count_exactly(model, x()).dead_weight.unregistered
    assert row.name == "rnn._all_weight_values.0.param" and row.elements == 4 * D * (C + D) + 2 * 4 * D and row.kind == "qint8"
    assert row.bytes == 4 * D * (C + D) + 4 * 2 * 4 * D


def test_strangers_4_bit_weights_are_named_by_how_many_they_are():
    rows, columns, group = 32, 64, 32
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.randint(0, 16, (rows, columns), dtype=torch.int32), 1)
    scales = torch.ones(columns // group, rows, 2, dtype=torch.bfloat16)

    class FourBits(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("packed", packed)
            self.register_buffer("scales", scales)

        def forward(self, x):
            return torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, group, self.scales)

    exact = count_exactly(FourBits(), (torch.randn(N, columns, dtype=torch.bfloat16),))
    assert exact.dead_weight.unregistered == (Unregistered("packed", rows * columns, rows * columns // 2, "4-bit"),)
    assert exact.flops.matmul_flops == 2 * N * rows * columns and exact.flops.uncounted == ()


# Work outside torch ---------------------------------------------------------------------------------------------------------------


def outside(does, inputs=None, **parts):
    count, both = (each(Does(does, **parts), inputs or x()) for each in (count_flops, count_exactly))
    assert count.outside == both.flops.outside
    return count.outside


def softmax_in_numpy(self, x):
    scores = np.exp(np.asarray(x))
    return torch.from_numpy(scores / scores.sum(-1, keepdims=True)) + 1


def sorted_in_python(self, x):
    return torch.tensor([sorted(row) for row in x.tolist()]) * 2


def solved_elsewhere(self, x):
    rows = np.argsort(x.detach().cpu().numpy()[:, 0])
    return x[torch.as_tensor(rows)]


@pytest.mark.parametrize("does", [softmax_in_numpy, sorted_in_python, solved_elsewhere])
def test_strangers_numbers_that_leave_torch_and_come_back_are_noticed(does):
    assert outside(does) == 1


def test_strangers_each_return_is_one():
    def twice(self, x):
        return softmax_in_numpy(self, softmax_in_numpy(self, x))

    assert outside(twice) == 2


def test_strangers_numbers_that_come_back_one_by_one_are_noticed_too():
    def chain(self, x):
        total = 0.0
        for each in x[0]:
            total = math.tanh(total + each.item() ** 2)
        return x * total + 0.5

    def range_of(self, x):
        low, high = x.min().item(), float(x.max())
        return x.clamp(low, high) * 0.5

    def only_integers(self, x):
        return torch.zeros(3) * 0.5, int(x.argmin()) + int(x.argmax())

    assert [outside(each) for each in (chain, range_of, only_integers)] == [1, 0, 0]


def test_strangers_what_leaves_torch_is_used_and_read():
    class InNumpy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(C, D, bias=False)

        def forward(self, x):
            return torch.from_numpy((x * 2).numpy() @ self.linear.weight.detach().numpy().T)

    exact = count_exactly(InNumpy(), x())
    assert exact.flops.outside == 1
    assert exact.dead_weight.never_read == () and exact.dead_weight.discarded == ()


def test_strangers_reading_a_value_or_bringing_constants_is_no_work_outside():
    table = np.linspace(0, 1, C, dtype=np.float32)

    def reads(self, x):
        size = int((x > 0).sum())
        return x[:, : max(1, size % C)] * float(x.mean())

    def constants(self, x):
        return x * torch.from_numpy(table) * float(x.sum())

    def sizes(self, x):
        return x[: torch.tensor([len(x), 3]).tolist()[1]]

    def prints(self, x):
        return x + 0 * len(str(x.numpy()))

    assert [outside(each) for each in (reads, constants, sizes, prints)] == [0, 0, 0, 0]
    assert torch.Tensor.numpy is torch._C.TensorBase.numpy, "what was watched is as before"


# Read through something else ------------------------------------------------------------------------------------------------------


class Reaches(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.linear, self.idle = nn.Linear(C, D), nn.Linear(C, D)
        self.act = act(self)

    def forward(self, x):
        return self.act(x)


class LooksAtValues(Reaches):
    def forward(self, x):
        return super().forward(x) * float(x.sum())


WAYS = {
    "a lambda": lambda self: lambda x: self.linear(x).relu(),
    "a partial of a method": lambda self: functools.partial(self.linear.forward),
    "a partial of weights": lambda self: functools.partial(F.linear, weight=self.linear.weight, bias=self.linear.bias),
    "a list of closures": lambda self: (lambda steps: lambda x: steps[0](x))([lambda x: F.linear(x, self.linear.weight, self.linear.bias)]),
    "a bound method": lambda self: self.linear.forward,
}


@pytest.mark.parametrize("kind", [Reaches, LooksAtValues])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("way", WAYS)
def test_strangers_weights_read_past_the_model_are_read(way, device, kind):
    if kind is LooksAtValues and device == "meta":
        pytest.skip("values are looked at")
    with torch.device(device):
        model = kind(WAYS[way])
        inputs = (torch.ones(N, C),)
    exact = count_exactly(model, inputs)
    assert [name for name, _ in exact.dead_weight.never_read] == ["idle.weight", "idle.bias"]
    assert exact.flops.matmul_flops == 2 * N * C * D and exact.dead_weight.unregistered == ()
