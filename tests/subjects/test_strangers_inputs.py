"""Inputs in objects: dataclasses, namespaces and containers of somebody's own are found, copied and given new numbers as tuples are."""

from __future__ import annotations

import collections
import dataclasses
import types

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from humar_bench.args import FreeWorkload, ModelArgs, Workload
from humar_bench.devices.device import CpuDevice
from humar_bench.errors import MeasurementError
from humar_bench.measures.exact import count_exactly
from humar_bench.measures.memory import measure_memory
from humar_bench.measures.nested import replaced, tensors_in
from humar_bench.subjects.free import FreeSubject
from humar_bench.subjects.subject import subject_of
from humar_bench.subjects.trees import make_nodes

C = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    image: torch.Tensor
    times: int

    def __post_init__(self):
        assert self.times == 3, "an object is copied without a call of its class's functions"


class Batch:
    def __init__(self, image, boxes):
        self.image, self.boxes = image, {"boxes": boxes}


class Tree(dict):
    pass


class Row(list):
    pass


class Itself:
    def __init__(self, image):
        self.image, self.me = image, self


class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(C, C, bias=False)

    def forward(self, sample):
        return self.linear(sample.image)


def named(row):
    tree = Tree(a=row)
    tree.note = "x"
    return tree


MAKE = {
    "a frozen dataclass with slots": (lambda row: Frozen(row, 3), lambda found: found.image),
    "an object": (lambda row: Batch(row, row * 2), lambda found: found.image),
    "a namespace": (lambda row: types.SimpleNamespace(image=row, name="x"), lambda found: found.image),
    "a dict of one's own": (named, lambda found: found["a"] if found.note == "x" else None),
    "a list of one's own": (lambda row: Row([row, 1]), lambda found: found[0] if found[1] == 1 else None),
    "a user dict": (lambda row: collections.UserDict(a=row), lambda found: found["a"]),
    "an object in an object": (lambda row: Batch([Frozen(row, 3)], None), lambda found: found.image[0].image),
}


@pytest.mark.parametrize("what", MAKE)
def test_strangers_objects_are_nodes_of_trees(what):
    make, look = MAKE[what]
    row = torch.ones(2, C)
    given = ((make(row),), {"more": None})
    assert make_nodes(given, "f")
    assert any(each is row for each in tree_leaves(given)) and any(each is row for each in tensors_in(given))
    for copied in (tree_map_only(torch.Tensor, torch.neg, given), replaced(given, torch.neg)):
        found = copied[0][0]
        assert type(found) is type(given[0][0]) and found is not given[0][0] and torch.equal(look(found), -row)
    assert look(given[0][0]) is row


def test_strangers_objects_without_tensors_stay_as_they_are():
    class Sizes:
        rows = 3

    assert not make_nodes((Sizes(), print, nn.Linear(1, 1), {"a": [1, "x", None]}), "f")
    assert tree_leaves(sizes := Sizes()) == [sizes]


def test_strangers_an_object_that_holds_itself_is_refused():
    with pytest.raises(MeasurementError, match="^f returned a Itself that holds itself; give the model what is in it.$"):
        make_nodes((Itself(torch.ones(1)),), "f")


INPUTS = """
import types

import numpy as np
import torch


def sample(batch):
    return (types.SimpleNamespace(image=torch.rand(batch, 4), name="x"),)


def alone(batch):
    return types.SimpleNamespace(image=torch.rand(batch, 4))


def array(batch):
    return np.zeros((batch, 4), np.float32)


def a_list(batch):
    return [torch.rand(batch, 4)]
"""


@pytest.fixture
def of(tmp_path):
    (tmp_path / "inputs.py").write_text(INPUTS)

    def made(name: str) -> FreeSubject:
        return subject_of(ModelArgs(), FreeWorkload.around(Workload.uniphd(2), f"{tmp_path / 'inputs.py'}:{name}"))

    return made


def test_strangers_a_model_of_objects_is_counted_and_measured_on_inputs_of_its_own(of):
    one = of("sample")
    first, second = (one.inputs(device="cpu", dtype=torch.float32, seed=seed) for seed in (1, 2))
    assert not torch.equal(first[0].image, second[0].image) and one.renewed(first) is None
    half = one.inputs(device="cpu", dtype=torch.bfloat16, seed=1)[0]
    assert half.image.dtype is torch.bfloat16 and half.name == "x"
    for device in ("cpu", "meta"):
        count = count_exactly(Reads(), one.inputs(device=device, dtype=torch.float32, seed=1)).flops
        assert count.matmul_flops == 2 * 2 * C * C and count.batch == 2 and count.method == "meta"
    memory = measure_memory(Reads, lambda: one.inputs(device="cpu", dtype=torch.float32, seed=1), CpuDevice(), outside=False)
    assert memory.inputs_bytes == memory.predicted_bytes == memory.allocator_bytes == 4 * 2 * C


@pytest.mark.parametrize(("name", "hint"), [
    ("alone", "an object that is one argument stands in a tuple: (it,)"), ("array", "torch.from_numpy makes a tensor of an array"),
    ("a_list", "a list that is one argument stands in a tuple: (the_list,), one of several arguments is tuple(the_list)"),
])
def test_strangers_what_is_no_call_is_told_what_would_be_one(of, name, hint):
    with pytest.raises(MeasurementError) as raised:
        of(name).inputs(device="cpu", dtype=torch.float32, seed=1)
    assert str(raised.value).endswith(f"or a pair (args, kwargs); {hint}.")
