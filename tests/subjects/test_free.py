"""Anybody's models by anybody's call: what a function gives, what a builder may be, what outputs are held against."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from humar_bench.args import FreeWorkload, Keywords, ModelArgs, Workload, read_workload
from humar_bench.devices.device import CpuDevice
from humar_bench.errors import MeasurementError, UsageError
from humar_bench.measures.agreement import Parts, agree
from humar_bench.measures.exact import count_exactly
from humar_bench.measures.memory import measure_memory
from humar_bench.measures.params import count_parameters
from humar_bench.records.record import plain
from humar_bench.running.new_inputs import MOST_NEW, NewInputs
from humar_bench.running.task import failure
from humar_bench.subjects.free import FreeSubject, tensors_of
from humar_bench.subjects.registry import parse_architecture
from humar_bench.subjects.subject import NotFiniteOutputs, subject_of
from tests.data.any_models import Found, Tagger

FILE = str(Path(__file__).parents[1] / "data" / "any_models.py")


def subject(inputs: str = "images", *, batch: int = 2, components=None, args: ModelArgs | None = None) -> FreeSubject:
    args = args or ModelArgs()
    return subject_of(args, FreeWorkload.around(Workload.uniphd(batch), f"{FILE}:{inputs}", components))


def built(one: FreeSubject, builder: str, device: str = "cpu") -> nn.Module:
    return one.build(parse_architecture(f"x={FILE}:{builder}"), device=device, dtype=torch.float32, seed=0)


def given(one: FreeSubject, device: str = "cpu", seed: int = 0, dtype: torch.dtype = torch.float32):
    return one.inputs(device=device, dtype=dtype, seed=seed)


def network_flops(width: int, batch: int, side: int = 16) -> int:
    return batch * (2 * (side // 2) ** 2 * 27 * width + 2 * (side // 4) ** 2 * 18 * width**2 + 2 * 2 * width * 10)


def test_a_model_that_changes_the_default_number_type_changes_nobodys_inputs():
    one = subject()
    torch.set_default_dtype(torch.float64)
    try:
        assert given(one)[0].dtype is torch.float32 and torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


# Inputs -----------------------------------------------------------------------------------------------------------------------------


def test_a_workload_says_whose_inputs_and_survives_its_record():
    work = FreeWorkload.around(Workload.tiny(3), "a.py:f", {"encoder": ["stem", "blocks"], "head": "fc"})
    assert (work.name, work.batch, work.inputs, work.subject) == ("tiny", 3, "a.py:f", "free")
    assert work.components == (("encoder", ("stem", "blocks")), ("head", ("fc",)))
    assert read_workload(json.loads(json.dumps(plain(dataclasses.asdict(work))))) == work
    assert FreeWorkload.around(Workload.uniphd(7), "a.py:f").name == "inputs" and type(subject()) is FreeSubject


@pytest.mark.parametrize(("given", "says"), [
    ({"inputs": ""}, "inputs is ''; name the function that makes them, as in file.py:function"),
    ({"inputs": 3}, "inputs is 3"),
    ({"inputs": "a.py:f", "components": ("stem",)}, "components holds 'stem'; it must hold names"),
    ({"inputs": "a.py:f", "components": (("encoder", "stem"),)}, "components holds"),
])
def test_a_workload_that_cannot_be_is_one_sentence(given, says):
    with pytest.raises(UsageError, match=says):
        FreeWorkload(**given)


def test_a_function_gives_a_tensor_a_tuple_a_dict_or_a_pair():
    [image] = given(subject())
    assert image.shape == (2, 3, 16, 16)
    [steps] = given(subject("sequences", batch=4))
    assert steps.shape == (5, 4, 6)
    [named] = given(subject("text"))
    assert isinstance(named, Keywords) and list(named) == ["input_ids", "attention_mask"] and named["input_ids"].dtype == torch.long
    [image] = given(subject("a_pair", batch=3))
    assert image.shape == (3, 3, 16, 16)


def test_a_function_gets_what_its_parameters_ask_for():
    assert given(subject("images_of_a_side", batch=3))[0].shape == (3, 3, 16, 16)
    assert given(subject("images_of_a_side(side=8)", batch=3))[0].shape == (3, 3, 8, 8)
    one, other, again = (given(subject("sequences"), seed=seed)[0] for seed in (1, 2, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_random_numbers_follow_the_seed_and_are_nobody_elses():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, other, again = (given(subject(), seed=seed)[0] for seed in (1, 2, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_only_floating_point_inputs_take_the_number_type_and_only_where_one_is_asked():
    [named] = given(subject("ids_alone"), dtype=torch.bfloat16)
    assert (named["ids"].dtype, named["weights"].dtype) == (torch.long, torch.bfloat16)


def test_on_meta_there_are_shapes_and_the_values_of_whole_numbers():
    [named] = given(subject("ids_alone"), device="meta")
    assert named["weights"].is_meta and named["weights"].shape == (2, 9) and not named["ids"].is_meta


@pytest.mark.parametrize(("function", "error", "says"), [
    ("missing", UsageError, "has no 'missing'; it has Network, small, wide, as_wide_as"),
    ("SIDE", UsageError, "'SIDE' in .* is a int; name a function that takes the batch size"),
    ("later", UsageError, "later in .* is async, and what it gives would have to be waited for"),
    ("a_list", MeasurementError, r"a_list returned a list; it must return a tensor, a tuple .* stands in a tuple: \(the_list,\)"),
    ("no_tensor", MeasurementError, "no_tensor returned no tensor; it must return a tensor"),
    ("raises", MeasurementError, "raises raised ValueError: no pictures here"),
    ("leaves", MeasurementError, "leaves raised SystemExit: 0"),
    ("raises_what_cannot_be_said", MeasurementError, "raises_what_cannot_be_said raised Unsayable"),
    ("within_itself", MeasurementError, "within_itself returned containers more than 20 deep within each other"),
    ("deep", MeasurementError, "deep returned containers more than 20 deep within each other"),
    ("without_numbers", MeasurementError, "without_numbers returned a tensor on the device meta, which has no numbers"),
    ("wants_more", UsageError, "wants_more takes resolution, and what can be asked for is batch, workload, args, device, seed"),
    ("of_no_batch", UsageError, "of_no_batch takes neither batch nor workload"),
    ("of_a_side", UsageError, "of_a_side takes neither batch nor workload"),
])
def test_a_function_that_gives_no_inputs_is_one_sentence(function, error, says):
    with pytest.raises(error, match=says):
        given(subject(function))


def test_shapes_that_follow_the_seed_are_refused():
    one = subject("grows")
    given(one, seed=1)
    with pytest.raises(MeasurementError, match=r"grows gives a tensor of shape \[2, 3, 16, 17\] and float32 for one seed and a tensor of"):
        given(one, seed=2)


# Builders ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("builder", "width"), [
    ("small", 4), ("Network", 4), ("Network(6)", 6), ("Network(width=7)", 7), ("net", 4), ("as_wide_as", 256), ("needs_a_width(5)", 5),
])
def test_a_builder_takes_nothing_or_args_or_what_stands_behind_it(builder, width):
    model = built(subject(), builder)
    assert model.stem.out_channels == width and not model.training


def test_a_model_of_a_file_is_measured_as_it_stands_there_each_time():
    one, other = (built(subject(), "net") for _ in range(2))
    assert one is not other and torch.equal(one.stem.weight, other.stem.weight)


@pytest.mark.parametrize(("builder", "kind", "takes"), [("NeedsAWidth", "class", "width"), ("wants_more", "function", "batch, resolution")])
def test_a_builder_that_takes_something_else_is_told_how(builder, kind, takes):
    with pytest.raises(UsageError, match=rf"^{builder} is a {kind} that takes {takes}, and a builder is called with nothing, or with args"):
        built(subject(), builder)


def test_what_stands_behind_a_builder_has_to_be_literal():
    with pytest.raises(UsageError, match=r"has \(open\('x'\)\) behind it; write literal values there"):
        parse_architecture(f"{FILE}:Network(open('x'))")


# Counts -----------------------------------------------------------------------------------------------------------------------------


def counted(inputs: str, builder: str, device: str = "meta", **more):
    one = subject(inputs, **more)
    model = built(one, builder, device)
    found = count_exactly(model, given(one, device))
    one.check(found.outputs, name=builder)
    return model, found


@pytest.mark.parametrize(("builder", "width"), [("small", 4), ("wide", 8)])
def test_two_small_networks_by_hand(builder, width):
    model, found = counted("images", builder, batch=3)
    assert found.flops.matmul_flops == network_flops(width, 3)
    count = count_parameters(model)
    assert count.total == 28 * width + (18 * width**2 + 2 * width) + (20 * width + 10)
    assert count.components == {"stem": 28 * width, "blocks": 18 * width**2 + 2 * width, "head": 20 * width + 10}
    assert found.dead_weight.never_read == ()


def test_a_recurrent_net_by_hand():
    model, found = counted("sequences", "Recurrent", batch=3)
    first, second = 4 * 8 * (6 + 8), 4 * 8 * (8 + 8)  # multiply-adds of a step of one sequence
    assert found.flops.matmul_flops == 2 * 3 * (5 * (first + second) + 8 * 3)
    assert count_parameters(model).total == first + second + 2 * 2 * 4 * 8 + 8 * 3 + 3
    assert found.flops.components["rnn"]["matmul_flops"] == 2 * 3 * 5 * (first + second)


def test_a_hugging_face_model_by_hand():
    pytest.importorskip("transformers")
    model, found = counted("text", "tiny_bert")  # it looks at its mask
    layer = 4 * 16 * 16 + 2 * 16 * 32 + 2 * 7 * 16  # projections, feed-forward, scores and their sums; of one word
    assert found.flops.matmul_flops == 2 * 2 * (2 * 7 * layer + 16 * 16)
    assert type(found.outputs).__name__ == "BaseModelOutputWithPoolingAndCrossAttentions"
    assert count_parameters(model).components.keys() == {"embeddings", "encoder", "pooler"}


def test_keywords_and_a_dataclass_by_hand():
    model, found = counted("ids_alone", "Tagger")
    assert found.flops.matmul_flops == 2 * 2 * 9 * 8 * 4
    assert list(tensors_of(found.outputs)) == ["scores", "best", "layers[0]"] and found.dead_weight.discarded == ()


def test_a_model_that_looks_at_flags_is_counted_on_meta():
    _, found = counted("flagged", "Chooses", batch=3)
    assert found.flops.method == "meta" and found.flops.matmul_flops == 2 * 3 * 6 * 40
    assert found.dead_weight.never_read == (("narrow.weight", 18), ("narrow.bias", 3))


def test_components_are_named_as_asked():
    model, found = counted("images", "small", components={"encoder": ["stem", "blocks"]})
    assert count_parameters(model).components == {"encoder": 28 * 4 + 18 * 16 + 8, "head": 90}
    assert found.flops.components["encoder"]["matmul_flops"] == network_flops(4, 2) - 2 * 160
    with pytest.raises(MeasurementError, match="no module of x is named in --components; at its top it has stem, blocks, head"):
        built(subject(components={"encoder": ["backbone"]}), "small")


@pytest.mark.parametrize(("inputs", "builder"), [("images", "small"), ("sequences", "Recurrent"), ("ids_alone", "Tagger")])
def test_memory_is_predicted_to_the_byte(inputs, builder):
    one = subject(inputs)
    found = measure_memory(
        lambda: built(one, builder), lambda: given(one), CpuDevice(), check=lambda outputs: one.check(outputs, name=builder), outside=False
    )
    assert found.predicted_bytes and found.difference_bytes == 0
    assert found.inputs_bytes == {"images": 4 * 2 * 768, "sequences": 4 * 5 * 2 * 6, "ids_alone": (8 + 4) * 2 * 9}[inputs]
    given_back = {"images": 4 * 2 * 10, "sequences": 4 * (2 * 3 + 2 * 2 * 2 * 8), "ids_alone": 2 * 9 * (4 * 4 + 8 + 4 * 8)}
    assert found.outputs_bytes == given_back[inputs]


# Outputs ----------------------------------------------------------------------------------------------------------------------------


def test_outputs_are_any_tree_each_tensor_by_its_way_there():
    tree = {"a": torch.ones(1), "b": (torch.ones(2), [Found(torch.ones(3), torch.ones(1), [torch.ones(4)])]), "c": "text", "d": None}
    assert list(tensors_of(tree)) == ["a", "b[0]", "b[1][0].scores", "b[1][0].best", "b[1][0].layers[0]"]
    assert list(tensors_of(torch.ones(1))) == ["output"]
    flat = tensors_of(tree)
    assert tensors_of(flat) == flat, "names stay when they are read a second time"


def held(got, want, dtype="float32"):
    one = subject()
    return agree(got, want, dtype, parts=lambda outputs: Parts(**one.parts(outputs)))


def test_outputs_are_held_part_by_part():
    want = {"scores": torch.tensor([1.0, 2.0, 3.0]), "best": torch.arange(4), "phase": torch.tensor([1 + 2j, 3 - 1j])}
    found = held(want, want)
    assert not found.fault and not found.selects and found.common_share == 1
    assert held({**want, "scores": want["scores"] * 1.01}, want).fault.startswith("scores is off by 0.014 of its root mean square")
    assert held({**want, "phase": want["phase"].conj()}, want).fault.startswith("phase is off by")
    off = held({**want, "best": torch.tensor([0, 1, 2, 9])}, want)
    assert off.fault == "best differs in 25 % of its numbers (tolerance 0.1 %)"
    assert not held({**want, "best": torch.tensor([0, 1, 2, 9])}, want, "int8").fault, "a quarter of the best may change places in int8"


def test_outputs_of_other_shapes_or_parts_are_named():
    want = {"a": torch.ones(2, 3), "b": torch.ones(1)}
    with pytest.raises(MeasurementError, match=r"^a is of shape \[3, 2\] where of shape \[2, 3\] is due"):
        held({**want, "a": torch.ones(3, 2)}, want)
    with pytest.raises(MeasurementError, match=r"^b is missing where of shape \[1\] is due"):
        held({"a": want["a"]}, want)


def test_outputs_without_a_tensor_or_with_nan_are_refused():
    one = subject()
    with pytest.raises(MeasurementError, match="^x returned a str without a tensor in it, so that there is nothing to compare"):
        one.check("nothing", name="x")
    with pytest.raises(NotFiniteOutputs, match=r"^x returned layers\[1\] with 1 of 2 numbers NaN or infinite"):
        one.check({"layers": [torch.ones(1), torch.tensor([1.0, torch.nan])]}, name="x")


def test_a_forward_that_takes_something_else_is_told_what_it_is_called_with():
    one = subject()
    model = built(one, "TakesTwo")
    with pytest.raises(MeasurementError) as caught:
        count_exactly(model, given(one))
    said = failure(caught.value, "x", one)["reason"]
    assert said.startswith(f"x is called with what {FILE}:images gives (1 by position), and TakesTwo.forward() missing 1 required")
    assert said.endswith("'mask'; let the two agree.")


# Unseen inputs ----------------------------------------------------------------------------------------------------------------------


def new_inputs(one: FreeSubject) -> NewInputs:
    return NewInputs(lambda other: given(one, seed=other), one.renewed, one.scales)


def test_inputs_that_follow_the_seed_are_drawn_anew_each_time():
    new = new_inputs(subject("text"))
    seen = set()
    for _ in range(6):
        new.renew()
        ids = new.current[0]["input_ids"]
        assert int(ids.min()) >= 0 and int(ids.max()) < 50 and bool((new.current[0]["attention_mask"] == 1).all())
        seen.add(tuple(ids.flatten().tolist()))
    assert len(seen) == 6
    assert new.make(1) is not None and MOST_NEW * new.renewals > MOST_NEW, "no seed is drawn from twice"


def test_inputs_that_follow_no_seed_are_moved_in_place_and_the_timed_ones_stay(tmp_path):
    (tmp_path / "fixed.py").write_text(
        "import torch\nkept = torch.linspace(0, 1, 12).reshape(2, 6)\n\ndef fixed(batch):\n    return kept, torch.tensor([3, 1])\n"
    )
    one = subject_of(ModelArgs(), FreeWorkload.around(Workload.uniphd(2), f"{tmp_path}/fixed.py:fixed"))
    timed, new = given(one), new_inputs(one)
    before, seen = timed[0].clone(), set()
    for _ in range(5):
        new.renew()
        values, whole = new.current
        assert 0 <= float(values.min()) and float(values.max()) <= 1, "no number beyond those of the function"
        assert whole.tolist() == [3, 1], "whole numbers may mean places, and there are others to change"
        seen.add(tuple(values.flatten().tolist()))
    assert len(seen) == 5 and torch.equal(timed[0], before)


def test_whole_numbers_that_follow_no_seed_change_places():
    new = new_inputs(subject("counts"))
    first = new.make(1)[0]["ids"]
    new.renew()
    ids = new.current[0]["ids"]
    assert not torch.equal(ids, first) and ids.flatten().sort().values.equal(first.flatten().sort().values)


def test_inputs_that_cannot_be_renewed_are_refused():
    one = subject("always_the_same")
    with pytest.raises(MeasurementError, match="always_the_same gives the same numbers whatever the seed, so that no forward would be on"):
        one.renewed(given(one))


def test_the_tagger_takes_keywords():
    one = subject("ids_alone")
    [named] = given(one)
    assert isinstance(Tagger()(**named), Found)


def test_the_page_shows_what_its_models_are(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "any-model.md").read_text(encoding="utf-8")
    (tmp_path / "cnn.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    one = subject_of(ModelArgs(), FreeWorkload.around(Workload.uniphd(1), f"{tmp_path}/cnn.py:images"))
    found = {}
    for name in ("small", "wide"):
        model = one.build(parse_architecture(f"{tmp_path}/cnn.py:{name}"), device="meta", dtype=torch.float32, seed=0)
        found[name] = count_exactly(model, given(one, "meta")).flops.matmul_flops, count_parameters(model).total
    assert found["small"][0] == 2 * (32 * 32 * 8 * 27 + 16 * 16 * 16 * 72 + 16 * 10)
    assert f"that is {2 * found['small'][0]:,} FLOP" in page
    assert f"{found['small'][1]:,} and {found['wide'][1]:,} parameters" in page
