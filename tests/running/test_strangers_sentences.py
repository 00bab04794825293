"""Sentences that help: what to do where a model, a builder or a file is not what was expected."""

from __future__ import annotations

import codecs
import json
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from humar_bench.errors import MeasurementError, UsageError
from humar_bench.measures.agreement import expected_outputs
from humar_bench.measures.exact import count_exactly
from humar_bench.measures.params import count_parameters
from humar_bench.reading import parse_json
from humar_bench.records.record import load
from humar_bench.running.arm import Arm
from humar_bench.running.bench import benchmark
from humar_bench.running.new_inputs import NewInputs
from humar_bench.running.task import failure
from humar_bench.subjects.making import made
from humar_bench.subjects.registry import build
from humar_bench.subjects.transformer import TransformerSubject, make_inputs
from tests.data.foreign_models import SmallPose
from tests.judging.test_speeds import a_run

BUILDERS = """
from torch import nn


class Net(nn.Module):
    def __init__(self, width, depth=3, *, heads):
        super().__init__()


def nothing():
    return Net(1, heads=2)


async def later(args):
    return nn.Identity()


def ordinary(args, width=4):
    return nn.Identity()
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "builders.py").write_text(BUILDERS)
    return tmp_path / "builders.py"


@pytest.mark.parametrize(("name", "said"), [
    ("Net", r"^Net is a class that takes width, depth=3, heads, and a builder is called with the arguments alone; name a function"),
    ("nothing", r"^nothing is a function that takes nothing, and a builder is called with the arguments alone; .*needs --inputs"),
])
def test_strangers_a_builder_with_another_signature_is_named_with_what_it_takes(file, tiny_args, name, said):
    with pytest.raises(UsageError, match=said):
        build(f"{file}:{name}", tiny_args)
    assert isinstance(build(f"{file}:ordinary", tiny_args), nn.Identity)


def test_strangers_an_async_builder_costs_its_own_row(file, tiny_args, tiny_workload):
    said = f"later in {file} is async, and what it gives would have to be waited for; name a function that takes"
    with pytest.raises(UsageError, match=re.escape(said)):
        build(f"{file}:later", tiny_args)
    kinds = {"ordinary": f"{file}:ordinary", "later": f"{file}:later"}
    run = benchmark(kinds, args=tiny_args, workload=tiny_workload, measures=["params"])
    assert [record.ok for record in run] == [True, False] and run[1].reason.startswith(said)


def test_strangers_parameters_that_overlap_are_named():
    class Overlap(nn.Module):
        def __init__(self):
            super().__init__()
            numbers = torch.randn(10)
            self.a, self.b = nn.Parameter(numbers[:8]), nn.Parameter(numbers[4:])

    with pytest.raises(MeasurementError, match="the parameters a and b overlap: 16 bytes of memory belong to both"):
        count_parameters(Overlap())


def test_strangers_parts_of_one_memory_that_do_not_overlap_are_counted():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            numbers = torch.randn(10)
            self.a, self.b, self.c = nn.Parameter(numbers[:4]), nn.Parameter(numbers[4:]), nn.Parameter(numbers[:4])

    count = count_parameters(Parts())
    assert count.total == 10 and count.shared == (("a", "c"),)


def test_strangers_a_builder_that_stays_on_meta_is_told_how_to_leave_it():
    def empty():
        with torch.device("meta"):
            return nn.Linear(2, 2)

    assert made("x", empty, device="meta").weight.is_meta
    with pytest.raises(MeasurementError) as raised:
        made("x", empty)
    assert str(raised.value) == (
        "the builder of x leaves weight on the device meta, where it has no numbers; let it end with to_empty(device='cpu') and fill the "
        "weights, or build on the CPU."
    )


def test_strangers_what_a_generator_would_compute_is_not_called_unread(in_process, tmp_path):
    (tmp_path / "lazy.py").write_text(
        "import torch\n\n\nclass Lazy(torch.nn.Linear):\n    def forward(self, x):\n        return (row @ self.weight for row in x)\n\n\n"
        "def build():\n    return Lazy(4, 4)\n\n\ndef rows(batch):\n    return torch.rand(batch, 4)\n"
    )
    run = benchmark([f"x={tmp_path / 'lazy.py'}:build"], measures=["params", "flops"], inputs=f"{tmp_path / 'lazy.py'}:rows")
    said = "x returned a generator without a tensor in it"
    params, flops = (next(record for record in run if record.measure == measure) for measure in ("params", "flops"))
    assert params.ok and params.measured["never_read"] is None and said in params.measured["never_read_reason"]
    assert not flops.ok and said in flops.reason


def test_strangers_a_lazy_layer_says_who_has_to_call_it():
    for count in (count_parameters, lambda model: count_exactly(model, (torch.ones(2, 3),))):
        with pytest.raises(MeasurementError, match="weight has no shape yet; let the builder run one forward of the model"):
            count(nn.LazyLinear(4))


# The call ---------------------------------------------------------------------------------------------------------------------------


class OneImage(nn.Module):
    def forward(self, image):
        return image


class Calls(nn.Module):
    """Its own forward takes the four, and calls something inside with too many."""

    def __init__(self):
        super().__init__()
        self.inside = OneImage()

    def forward(self, srcs, masks, pos_embeds, query_embed):
        return self.inside(query_embed, masks)


class ByName(nn.Module):
    def forward(self, srcs, masks, pos_embeds, query_embed, *, sizes):
        return query_embed


def reason_of(model, args, workload):
    inputs = make_inputs(args, workload)
    with pytest.raises((TypeError, MeasurementError)) as caught:
        count_exactly(model, inputs)
    return failure(caught.value, "x")["reason"]



def test_strangers_another_call_is_told_what_a_model_is_called_with(tiny_args, tiny_workload):


    said = reason_of(OneImage(), tiny_args, tiny_workload)
    assert said == (
        "x is called with srcs, masks, pos_embeds, query_embed, and OneImage.forward() takes 2 positional arguments but 5 were given; let "
        "its forward take these, or call it by --inputs with others."
    )
    assert "missing 1 required keyword-only argument: 'sizes'; let its forward" in reason_of(ByName(), tiny_args, tiny_workload)
    assert "is called with" not in reason_of(Calls(), tiny_args, tiny_workload)


def test_strangers_a_forward_that_differentiates_in_inference_mode_is_told_how(tiny_args, tiny_workload):
    class Slope(nn.Module):
        def forward(self, srcs, masks, pos_embeds, query_embed):
            with torch.enable_grad():
                x = query_embed.clone().requires_grad_()
                return torch.autograd.grad(x.square().sum(), x)[0]

    said = reason_of(Slope(), tiny_args, tiny_workload)
    assert said == (
        "x differentiates inside its forward, and inference mode, in which it is measured, records nothing to differentiate; let it do so "
        "on copies of its inputs inside torch.inference_mode(False)."
    )


class Checkpointed(nn.Linear):
    def forward(self, x):
        with torch.enable_grad():
            return torch.utils.checkpoint.checkpoint(super().forward, x * 1, use_reentrant=False)


class Jagged(nn.Module):
    def forward(self, x):
        return torch.nested.nested_tensor_from_jagged(x, torch.tensor([0, 1, 3]))


@pytest.mark.parametrize(("model", "refused"), [
    (Checkpointed(4, 4), "Inference tensors cannot be saved for backward"), (Jagged(), "Cannot set version_counter for inference tensor"),
])
def test_strangers_a_forward_that_does_what_inference_mode_does_not_allow_is_told_how(model, refused):
    with pytest.raises(MeasurementError) as raised:
        count_exactly(model, (torch.zeros(3, 4),))
    assert failure(raised.value, "x")["reason"] == (
        f"x does in its forward what inference mode, in which it is measured, does not allow ({refused}); let it do so on copies of its "
        "inputs inside torch.inference_mode(False), and under torch.no_grad() where it needs no gradient."
    )


# Chance -----------------------------------------------------------------------------------------------------------------------------


class Noisy(SmallPose):
    def forward(self, *inputs):
        hs, points, mix_points, mix, maps = super().forward(*inputs)
        return hs, points, mix_points, F.dropout(mix, 0.5), maps


class Stale(SmallPose):
    """The same each time, and wrong."""

    def forward(self, *inputs):
        hs, points, mix_points, mix, maps = super().forward(*inputs)
        return hs, points, mix_points, mix * 1.5, maps


class Drifts(SmallPose):
    """Two forwards in a row are within the tolerance, more of them are not."""

    calls = 0

    def forward(self, *inputs):
        hs, points, mix_points, mix, maps = super().forward(*inputs)
        self.calls += 1
        return hs, points, mix_points, mix * (1 + 4e-4 * self.calls / float(mix.abs().max() / mix.square().mean().sqrt())), maps


@pytest.mark.parametrize(("kind", "said"), [
    (Drifts, "two forwards of x on one input differ: mix_embedding is off by"),
    (Noisy, "two forwards of x on one input differ: mix_embedding is off by .* it may draw random numbers"),
    (Stale, "the outputs of x differ from a float32 eager forward of the same weights"),
])
def test_strangers_chance_in_eval_mode_is_told_from_a_wrong_answer(tiny_args, tiny_workload, kind, said):
    torch.manual_seed(0)
    sizes = (tiny_args.hidden_dim, tiny_args.num_body_points, tiny_args.dec_layers)
    model, honest = kind(*sizes).eval(), SmallPose(*sizes).eval()
    new = NewInputs(lambda other: make_inputs(tiny_args, tiny_workload, seed=other), TransformerSubject(tiny_args, tiny_workload).renewed)
    arm = Arm("x", model, make_inputs(tiny_args, tiny_workload), new, check_s=float("inf"),
              expect=lambda inputs: expected_outputs(lambda: honest if kind is Stale else kind(*sizes), model, inputs))
    model.calls = 5
    arm()
    with pytest.raises(MeasurementError, match=said):
        arm.check_first()


# Files ------------------------------------------------------------------------------------------------------------------------------


def test_strangers_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    assert parse_json(codecs.BOM_UTF8 + b'{"a": 1}') == parse_json("\ufeff" + json.dumps({"a": 1})) == {"a": 1}
    run = a_run({"name": "b"}, processes=1)
    path = tmp_path / "records.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + "".join(f"{each.to_json()}\n" for each in run).encode())
    assert [each.architecture for each in load(path)] == [each.architecture for each in run]


def test_strangers_a_key_that_stands_twice_is_refused():
    with pytest.raises(ValueError, match="it gives the key 'a' twice"):
        parse_json('{"a": 1, "b": {"a": 2}, "a": 3}')
