"""What is read, made or written where no operator shows it: found all the same, or said to be unseen. And models that torch itself made."""

from __future__ import annotations

import ctypes
import dataclasses
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from humar_bench.devices.device import CpuDevice
from humar_bench.measures.dead_weight import find_dead_weight
from humar_bench.measures.exact import count_exactly
from humar_bench.measures.memory import measure_memory
from humar_bench.measures.memory_prediction import predict_built
from humar_bench.measures.params import count_parameters
from humar_bench.measures.threads import OtherThreads
from humar_bench.subjects.free import tensors_of
from humar_bench.subjects.making import made

N, C, D = 6, 16, 8
PRODUCT = 2 * N * C * D


LOOSE = torch.randn(C, D)


def x():
    return (torch.randn(N, C),)


class Does(nn.Module):
    def __init__(self, does, **parts):
        super().__init__()
        self.does = does
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.does(self, x)


def unregistered(model):
    return {row.name: (row.elements, row.bytes) for row in find_dead_weight(model, x()).unregistered}


# Numbers nobody registered -----------------------------------------------------------------------------------------------------------


class Table:
    weight = torch.randn(C, D)


class Slots:
    __slots__ = ("weight",)

    def __init__(self):
        self.weight = torch.randn(C, D)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_strangers_what_a_classs_own_forward_closes_over_is_named(device):
    weight = torch.randn(C, D, device=device)

    class Closes(nn.Module):
        def forward(self, x):
            return x @ weight

    exact = count_exactly(Closes(), x())
    assert [(row.name, row.elements) for row in exact.dead_weight.unregistered] == [("weight", C * D)]
    assert exact.flops.matmul_flops == PRODUCT and exact.flops.outside == 0


def test_strangers_a_class_slots_and_a_deque_are_looked_into():
    assert unregistered(Does(lambda self, x: x @ Table.weight)) == {"does.Table.weight": (C * D, 4 * C * D)}
    assert unregistered(Does(lambda self, x: x @ self.held.weight, held=Slots())) == {"held.weight": (C * D, 4 * C * D)}
    assert unregistered(Does(lambda self, x: x @ self.held[0], held=deque([torch.randn(C, D)]))) == {"held[0]": (C * D, 4 * C * D)}


class Slotted(nn.Module):
    __slots__ = ("weight",)

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "weight", torch.randn(C, D))

    def forward(self, x):
        return x @ self.weight


def test_strangers_a_module_with_slots_is_copied_with_what_is_in_them():
    exact = count_exactly(Slotted(), x())
    assert exact.flops.matmul_flops == PRODUCT and exact.dead_weight.discarded == ()


@dataclasses.dataclass(slots=True)
class Found:
    scores: torch.Tensor


class Boxed:
    __slots__ = ("scores",)

    def __init__(self, scores):
        self.scores = scores


@pytest.mark.parametrize("wrap", [Found, Boxed, lambda made: deque([made]), lambda made: {"found": (None, Found(made))}])
def test_strangers_outputs_in_slots_and_deques_are_not_for_nothing(wrap):
    weight = torch.randn(C, D)
    exact = count_exactly(Does(lambda self, x: wrap(x @ weight)), x())
    assert exact.dead_weight.discarded == () and exact.flops.matmul_flops == PRODUCT
    assert [tuple(each.shape) for each in tensors_of(exact.outputs).values()] == [(N, D)]


@pytest.mark.parametrize("weight", [np.ones((C, D), np.float32), np.ones((C, D), np.float32).tolist()], ids=["numpy", "list"])
def test_strangers_weights_that_are_no_tensors_are_named_by_their_shape(weight):
    found = unregistered(Does(lambda self, x: x @ torch.as_tensor(self.weight), weight=weight))
    assert found == {f"(a tensor of {C}x{D})": (C * D, 4 * C * D)}


def test_strangers_memory_from_elsewhere_that_is_written_first_is_no_weight():
    def forward(self, x):
        place = torch.frombuffer(bytearray(4 * 100), dtype=torch.float32)
        place.fill_(2.0)
        return x * place[0]

    assert unregistered(Does(forward)) == {}


@pytest.fixture(autouse=True)
def of_the_test_alone(monkeypatch):
    """Threads of whoever runs the tests may wake up at any time; a test has those that it starts."""
    others, everybody = {*threading.enumerate()} - {threading.current_thread()}, threading.enumerate
    monkeypatch.setattr(threading, "enumerate", lambda: [thread for thread in everybody() if thread not in others])


# Threads -----------------------------------------------------------------------------------------------------------------------------


def in_a_thread(self, x):
    found = []
    thread = threading.Thread(target=lambda: found.append(self.linear(x)))
    thread.start()
    thread.join()
    return found[0]


def in_a_pool(self, x):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(self.linear, x).result()


@pytest.mark.parametrize("does", [in_a_thread, in_a_pool])
def test_strangers_what_a_thread_computes_is_counted_and_its_weights_are_read(does):
    start = threading.Thread.start
    exact = count_exactly(Does(does, linear=nn.Linear(C, D, bias=False)), x())
    assert exact.flops.matmul_flops == PRODUCT and exact.flops.outside == 0 and exact.dead_weight.never_read == ()
    assert exact.flops.components == {"linear": {"matmul_flops": PRODUCT, "second_tier_flops": 0}}
    assert threading.Thread.start is start


def test_strangers_a_thread_that_was_there_before_is_said_to_be_unseen():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()

        class Elsewhere(nn.Module):
            def forward(self, x):
                return pool.submit(lambda: x @ torch.ones(C, D, device=x.device)).result().relu()

        assert count_exactly(Elsewhere(), x()).flops.outside == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [lambda: torch.jit.freeze(torch.jit.script(plain())), lambda: Does(lambda self, x: x @ LOOSE)])
def test_strangers_a_thread_that_only_waits_made_no_weights(make):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        exact = count_exactly(made("x", make), x())
    assert exact.flops.outside == 0 and [row.elements for row in exact.dead_weight.unregistered] == [C * D]


def test_strangers_where_the_system_does_not_say_what_a_thread_used_it_may_have_computed(monkeypatch):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        for _ in range(200):  # its thread needs a moment until it waits
            others = OtherThreads()
            time.sleep(0.01)
            if not others.computed():
                break
        assert not others.computed()
        monkeypatch.setattr(Path, "read_text", lambda path: "")
        assert others.computed() and OtherThreads().computed()
    assert not OtherThreads().computed()


# Outside torch ------------------------------------------------------------------------------------------------------------------------


def written_by_numpy(self, x):
    y = torch.empty(N, C)
    np.multiply(x.numpy(), 2, out=y.numpy())
    return y


def written_by_address(self, x):
    y = torch.zeros(N, C)
    (ctypes.c_float * y.numel()).from_address(y.data_ptr())[0] = 3.0
    return y + x


def bytes_of_pixels(self, x):
    pixels = (x.sigmoid() * 255).repeat(4, 4).byte().numpy()
    return torch.from_numpy(pixels // 2).float()


def one_by_one(self, x):
    return torch.tensor([x[0, 0].item() * 2, x[0, 1].item()])


@pytest.mark.parametrize("does", [written_by_numpy, written_by_address, bytes_of_pixels, one_by_one])
def test_strangers_what_is_written_outside_torch_is_noticed(does):
    assert count_exactly(Does(does), x()).flops.outside == 1


def looks_where_it_lies(self, x):
    return x * (1 + x.data_ptr() * 0)


def looks_and_writes_itself(self, x):
    y = x * 2
    y.numpy()
    y.add_(1)
    return y


@pytest.mark.parametrize("does", [looks_where_it_lies, looks_and_writes_itself])
def test_strangers_what_is_only_looked_at_is_not_called_written(does):
    flops = count_exactly(Does(does), x()).flops
    assert flops.outside == 0 and flops.method == "values"


# Sparse and nested tensors -------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize(("form", "places"), [("to_sparse_coo", 2 * 8 * C), ("to_sparse_csr", 8 * (C + 1) + 8 * C)])
def test_strangers_a_sparse_parameter_counts_by_what_it_stores(form, places):
    weight = nn.Parameter(getattr(torch.eye(C), form)())
    model = Does(lambda self, x: torch.sparse.mm(self.weight, x.T), weight=weight)
    count, exact = count_parameters(model), count_exactly(model, x())
    assert count.total == C and count.param_bytes == 4 * C + places
    assert exact.flops.matmul_flops == 2 * C * N and exact.dead_weight.never_read == ()


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_strangers_a_sparse_attribute_in_blocks_is_named_by_what_it_stores():
    weight, blocks = torch.eye(C).to_sparse_bsr((4, 4)), C // 4
    found = unregistered(Does(lambda self, x: self.weight @ x.T, weight=weight))
    assert found == {"weight": (16 * blocks, 4 * 16 * blocks + 8 * (blocks + 1) + 8 * blocks)}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_strangers_operators_on_nested_tensors_without_a_shape_are_said_to_be_uncounted():
    def padded(self, x):
        return self.linear(torch.nested.nested_tensor([x[:2], x[2:]])).to_padded_tensor(0.0)

    exact = count_exactly(Does(padded, linear=nn.Linear(C, D)), x())
    assert "aten::linear" in dict(exact.flops.uncounted) and exact.dead_weight.never_read == ()


def test_strangers_a_scan_is_counted_step_by_step():
    from torch._higher_order_ops.scan import scan

    def along(self, x):
        return scan(lambda carry, row: (carry + row, self.linear(row) * 1), torch.zeros(C), x)[1]

    assert count_exactly(Does(along, linear=nn.Linear(C, D, bias=False)), x()).flops.matmul_flops == PRODUCT


# Models that torch made ------------------------------------------------------------------------------------------------------------------


def plain():
    return nn.Sequential(nn.Linear(C, D, bias=False)).eval()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("make", [
    lambda: torch.jit.trace(plain(), x()), lambda: torch.jit.script(plain()), lambda: torch.jit.freeze(torch.jit.script(plain())),
    lambda: torch.export.export(plain(), x()).module(), lambda: torch.fx.symbolic_trace(plain()),
], ids=["traced", "scripted", "frozen", "exported", "fx"])
def test_strangers_models_that_torch_made_are_counted_as_what_they_were_made_of(make):
    model = made("x", make)
    exact = count_exactly(model, x())
    assert exact.flops.matmul_flops == PRODUCT and exact.flops.uncounted == () and exact.flops.outside == 0
    named = sum(row.elements for row in exact.dead_weight.unregistered)
    assert count_parameters(model).total + named == C * D and exact.dead_weight.never_read == ()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_strangers_constants_that_a_script_no_longer_uses_are_no_weights():
    layers = nn.Sequential(nn.Linear(C, C, bias=False), nn.ReLU(), nn.Linear(C, C, bias=False)).eval()
    model = torch.jit.optimize_for_inference(torch.jit.script(layers))  # keeps each weight beside the transposed one that it uses
    exact = count_exactly(model, x())
    assert [row.elements for row in exact.dead_weight.unregistered] == [C * C] * 2 and exact.flops.matmul_flops == 2 * 2 * N * C * C


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_strangers_an_exported_model_stays_in_its_mode_and_is_predicted():
    model = made("x", lambda: torch.export.export(plain(), x()).module())
    assert model.eval() is model and model.train(False) is model
    found = predict_built(model, x, "cpu")
    assert found.peak is not None and found.peak.peak_bytes == 4 * N * D


# Memory of them --------------------------------------------------------------------------------------------------------------------------


def measured(does, **parts):
    return measure_memory(lambda: Does(does, **parts), x, CpuDevice())


def test_strangers_memory_of_a_forward_that_works_by_addresses_is_measured_unpredicted():
    found = measured(written_by_address)
    assert found.predicted_bytes is None and "nothing was predicted" in found.method and found.peak_bytes >= 4 * N * C
    assert "data_ptr" not in vars(torch.Tensor)


def test_strangers_memory_of_a_forward_in_another_thread_is_no_lost_row():
    def elsewhere(self, x):
        found = []
        thread = threading.Thread(target=lambda: found.append(self.linear(x)))
        thread.start()
        thread.join()
        return found[0]

    assert measured(elsewhere, linear=nn.Linear(C, D)).allocator_bytes == 0


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_strangers_memory_of_nested_tensors_without_a_shape_is_measured():
    def padded(self, x):
        return self.linear(torch.nested.nested_tensor([x[:2], x[2:]])).to_padded_tensor(0.0)

    assert measured(padded, linear=nn.Linear(C, D)).peak_bytes >= 4 * 2 * 4 * D
