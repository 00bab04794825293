"""Models that are called by name and give dataclasses, through every backend of a CPU: the same outputs for other inputs too."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from humar_bench.args import FreeWorkload, Keywords, ModelArgs, Workload
from humar_bench.backends import prepare
from humar_bench.backends.tensors import leaves, split
from humar_bench.measures.agreement import Parts, agree
from humar_bench.measures.call import called
from humar_bench.subjects.registry import parse_architecture
from humar_bench.subjects.subject import subject_of


def test_inputs_are_split_into_places_and_names():
    one, two = torch.ones(1), torch.ones(2)
    assert split((one, Keywords(x=two))) == ((one,), {"x": two}) and split((one, two)) == ((one, two), {}) and split(()) == ((), {})
    assert [len(each) for each in leaves(split((one, Keywords(x=two))))] == [1, 2]


@pytest.mark.parametrize("backend", ["eager", "onnxruntime", "openvino", pytest.param("compile", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("builder", "inputs"), [("Tagger", "ids_alone"), ("small", "images"), ("Recurrent", "sequences")])
def test_every_backend_takes_what_a_function_gives(backend, builder, inputs):
    if backend in ("onnxruntime", "openvino"):
        pytest.importorskip(backend)
    subject = subject_of(ModelArgs(), FreeWorkload.around(Workload.uniphd(2), f"tests.data.any_models:{inputs}"))
    model = subject.build(parse_architecture(f"tests.data.any_models:{builder}"), device="cpu", dtype=torch.float32, seed=0)
    given = [subject.inputs(device="cpu", dtype=torch.float32, seed=seed) for seed in (0, 1)]
    call = prepare(backend, model, given[0]).call
    for each in given:
        with torch.inference_mode():
            got, want = called(call, each), called(model, each)
        subject.check(got, name=builder)
        found = agree(got, want, "float32", parts=lambda outputs: Parts(**subject.parts(outputs)))
        assert not found.fault, found.fault
        assert type(got) is type(want)
    if dataclasses.is_dataclass(want):
        assert got.note == want.note == "done", "what is no tensor comes back as it was"
