"""Names become models; everything that can be wrong with somebody's builder is one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from humar_bench.errors import MeasurementError, UsageError, is_out_of_memory, one_line
from humar_bench.measures.components import component_of
from humar_bench.measures.flops import count_flops
from humar_bench.subjects.components import name_components
from humar_bench.subjects.registry import (
    BUILT_IN,
    Architecture,
    build,
    check_architecture,
    load_builder,
    parse_architecture,
    parse_architectures,
)
from humar_bench.subjects.subject import NotFiniteOutputs
from humar_bench.subjects.transformer import check_outputs, make_inputs

FOREIGN = str(Path(__file__).parents[1] / "data" / "foreign_models.py")


def foreign(builder: str) -> str:
    return f"{FOREIGN}:{builder}"


def says(error, *parts: str) -> None:
    """One sentence: each part in it, one line, a full stop at its end and no other."""
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and not text.endswith("..")
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("original", Architecture("original", "original", False)),
        ("efficient", Architecture("efficient", "efficient", False)),
        ("control=original", Architecture("control", "original", False)),
        ("package.module:builder", Architecture("package.module:builder", "package.module:builder", True)),
        ("mine=package.module:builder", Architecture("mine", "package.module:builder", True)),
        ("path/file.py:builder", Architecture("file:builder", "path/file.py:builder", True)),
        ("my model = a=b/c.py:builder", Architecture("my model", "a=b/c.py:builder", True)),
        ("a/b=c/d.py:builder", Architecture("d:builder", "a/b=c/d.py:builder", True)),
    ],
)
def test_a_spec_is_a_name_a_module_or_a_file_with_an_optional_name_before_it(text, expected):
    assert parse_architecture(text) == expected
    assert parse_architecture(expected) is expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("orginal", "'orginal' is unknown; choose original, original-fused, efficient, efficient-fused, efficient-accurate, "
                    "package.module:builder or path/file.py:builder"),
        ("", "unknown"),
        ("=original", "empty name"),
        ("package.module:", "does not name a builder"),
        (":builder", "does not name a builder"),
        ("package.module:build()", "does not name a builder"),
        ("pack age:builder", "names no module"),
        ("path/file.txt:builder", "not a Python file; name one that ends in .py"),
        (3, "3 is not text"),
    ],
)
def test_a_spec_that_is_none_is_refused_with_what_would_work(text, said):
    with pytest.raises(UsageError) as error:
        parse_architecture(text)
    says(error, said)


def test_two_architectures_of_one_name_are_refused_and_one_builder_under_two_names_is_not():
    assert [each.name for each in parse_architectures(["original", "control=original"])] == ["original", "control"]
    assert parse_architectures("original") == [parse_architecture("original")]
    with pytest.raises(UsageError) as error:
        parse_architectures(["original", "efficient", "original"])
    says(error, "two architectures are named 'original'", "OTHER=original")
    with pytest.raises(UsageError, match="no architecture is named"):
        parse_architectures([])


def test_a_module_in_the_working_directory_and_a_file_with_a_neighbour_can_be_loaded(tmp_path, monkeypatch):
    (tmp_path / "humar_neighbour.py").write_text("SIZE = 3\n")
    (tmp_path / "humar_here.py").write_text(
        "from __future__ import annotations\nimport dataclasses, torch, humar_neighbour\n"
        "@dataclasses.dataclass\nclass Sizes:\n    n: int = humar_neighbour.SIZE\n"
        "def builder(args):\n    return torch.nn.Linear(Sizes().n, 2)\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    by_file = load_builder(f"{tmp_path}/humar_here.py:builder")
    assert load_builder(f"{tmp_path}/humar_here.py:builder") is by_file and by_file(None).in_features == 3
    monkeypatch.chdir(tmp_path)
    assert load_builder("humar_here:builder")(None).in_features == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("def build(args:\n", ("it is not Python at line 1",)),
        ("\0\0\0", ("it is not Python",)),
        ("import no_such_thing_at_all\n", ("it needs 'no_such_thing_at_all', which is not installed",)),
        ("1 / 0\n", ("it raised ZeroDivisionError: division by zero",)),
        ("def other(args): ...\ndef _hidden(args): ...\n", ("has no 'build'; it has other; name a function",)),
        ("build = 3\n", ("'build' in", "is a int; name a function")),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path, monkeypatch, content, said):
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "broken.py"
    file.write_text(content)
    with pytest.raises(UsageError) as error:
        load_builder(f"{file}:build")
    says(error, *said)


def test_a_file_that_is_bytes_or_a_folder_or_missing_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "folder.py").mkdir()
    for name, said in (("bytes", "it is not Python"), ("folder", "is not a file"), ("missing", "does not exist")):
        with pytest.raises(UsageError) as error:
            load_builder(f"{tmp_path}/{name}.py:build")
        says(error, said)


def test_a_module_that_does_not_exist_or_needs_one_that_does_not_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "humar_needs.py").write_text("import no_such_thing_at_all\n")
    (tmp_path / "humar_wrong.py").write_text("def\n")
    for spec, said in (
        ("no_such_thing_at_all.models:build", "there is no module 'no_such_thing_at_all.models' here"),
        ("humar_bench.no_such_room:build", "there is no module 'humar_bench.no_such_room' here"),
        ("humar_needs:build", "it needs 'no_such_thing_at_all', which is not installed"),
        ("humar_wrong:build", "it is not Python at line 1"),
    ):
        with pytest.raises(UsageError) as error:
            load_builder(spec)
        says(error, said)


@pytest.mark.parametrize(
    ("builder", "said"),
    [
        ("raises", "the builder of foreign_models:raises raised ValueError: width 32 is too wide."),
        ("not_a_model", "the builder of foreign_models:not_a_model returned a list; it must return a torch.nn.Module."),
    ],
)
def test_a_builder_that_fails_is_one_sentence(tiny_args, builder, said):
    with pytest.raises(MeasurementError) as error:
        build(foreign(builder), tiny_args)
    assert str(error.value) == said


def test_a_builder_that_refuses_an_argument_keeps_its_own_sentence(tiny_args, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "refuses.py").write_text("from humar_bench.errors import UsageError\ndef build(args):\n    raise UsageError('no.')\n")
    with pytest.raises(UsageError, match=r"^no\.$"):
        build(f"{tmp_path}/refuses.py:build", tiny_args)


def test_the_seed_fixes_the_weights_and_torchs_own_generator_is_left_alone(tiny_args):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (build(foreign("build"), tiny_args, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.encode.weight, same.encode.weight) and not torch.equal(one.encode.weight, other.encode.weight)


def test_a_model_comes_in_eval_mode_with_the_asked_number_type_and_on_the_asked_device(tiny_args):
    model = build(foreign("build"), tiny_args, dtype=torch.bfloat16)
    assert not model.training and {each.dtype for each in model.parameters()} == {torch.bfloat16}
    on_meta = build(foreign("build"), tiny_args, device="meta")
    assert {each.device.type for each in on_meta.parameters()} == {"meta"}


def test_a_namespace_with_upstreams_names_builds_too(tiny_args):
    import argparse

    assert build(foreign("build"), argparse.Namespace(hidden_dim=8, nheads=2, efficient_nheads=2)).encode.in_features == 8


def test_a_foreign_model_with_the_interfaces_names_has_the_components_of_the_built_in_ones(tiny_args, tiny_workload):
    model, ours = build(foreign("interface"), tiny_args), build("original", tiny_args)
    shared = ("level_embed", "decoder.pose_embed.0.weight", "decoder.layers.1.bias", "enc_output.weight", "enc_pose_embed.bias")
    assert [component_of(model, path) for path in shared] == [component_of(ours, path) for path in shared] == [
        "embeddings", "heads", "decoder", "proposals", "heads",
    ]
    assert [component_of(model, path) for path in ("", "tokens", "encode.weight", "points")] == ["frame", "frame", "encode", "points"]
    rows = count_flops(model, make_inputs(tiny_args, tiny_workload)).components
    assert rows.keys() == {"frame", "encode", "points", "decoder", "heads", "proposals"}


def test_only_a_foreign_model_that_shares_a_name_and_names_nothing_itself_is_named(tiny_args):
    assert not hasattr(build(foreign("build"), tiny_args), "components")
    model = build(foreign("interface"), tiny_args)
    model.components = (("", "all"),)
    name_components(model)
    assert model.components == (("", "all"),)


def test_building_under_a_fake_tensor_mode_allocates_nothing(tiny_args):
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    with FakeTensorMode():
        model = build(foreign("build"), tiny_args)
        half = build(foreign("build"), tiny_args, dtype=torch.float16)
    for each, dtype in ((model, torch.float32), (half, torch.float16)):
        assert all(isinstance(tensor.data, FakeTensor) and tensor.dtype == dtype for tensor in each.parameters())


def test_outputs_of_the_shared_call_are_accepted_on_cpu_and_on_meta(tiny_args, tiny_workload):
    for device in ("cpu", "meta"):
        model = build(foreign("build"), tiny_args, device=device)
        with torch.inference_mode():
            check_outputs(model(*make_inputs(tiny_args, tiny_workload, device=device)), tiny_args, tiny_workload)


@pytest.mark.parametrize(
    ("builder", "kind", "said"),
    [
        ("not_finite", NotFiniteOutputs, "x returned mix_embedding with 320 of 320 numbers NaN or infinite"),
        ("other_shapes", MeasurementError, "x returned mix_embedding of shape [2, 32, 5]; it must be [2, 5, 32]"),
        ("four_outputs", MeasurementError, "x returned 4 outputs; it must return hs_pose"),
        ("one_tensor", MeasurementError, "x returned a Tensor; it must return hs_pose"),
    ],
)
def test_other_outputs_are_one_sentence(tiny_args, tiny_workload, builder, kind, said):
    model = build(foreign(builder), tiny_args)
    with torch.inference_mode():
        outputs = model(*make_inputs(tiny_args, tiny_workload))
    with pytest.raises(kind) as error:
        check_outputs(outputs, tiny_args, tiny_workload, name="x")
    says(error, said)


def test_lists_of_another_length_and_parts_that_are_no_tensors_are_one_sentence(tiny_args, tiny_workload):
    with torch.inference_mode():
        good = list(build(foreign("build"), tiny_args)(*make_inputs(tiny_args, tiny_workload)))
    for index, part, said in (
        (0, good[0][:2], "hs_pose of 2; it must be a list of 3"),
        (1, good[1][0], "refpoint_pose that is a Tensor; it must be a list of 4"),
        (4, [*good[4][:2], None], "memory_features[2] as a NoneType; it must be a tensor of shape [2, 32, 3, 2]"),
    ):
        with pytest.raises(MeasurementError) as error:
            check_outputs([*good[:index], part, *good[index + 1 :]], tiny_args, tiny_workload)
        says(error, said)


def test_out_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**46, dtype=torch.uint8)
    assert is_out_of_memory(error.value) and is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError("CUDA"))
    assert not is_out_of_memory(RuntimeError("shapes differ")) and not is_out_of_memory(ValueError("out of memory"))


def test_an_exception_becomes_part_of_one_sentence():
    assert one_line(KeyError()) == "KeyError"
    assert one_line(ValueError("first.\nsecond")) == "ValueError: first"
    assert len(one_line(ValueError("x" * 1000))) < 230
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**46, dtype=torch.uint8)
    assert one_line(error.value).startswith("RuntimeError: DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_built_in_architectures_answer_the_shared_call(tiny_args, tiny_workload, name):
    model = build(name, tiny_args)
    assert isinstance(model, nn.Module) and not model.training
    with torch.inference_mode():
        check_outputs(model(*make_inputs(tiny_args, tiny_workload)), tiny_args, tiny_workload, name=name)


def test_the_registry_and_its_parser_do_not_import_torch():
    code = (
        "import sys, humar_bench.subjects.registry as r\n"
        "r.parse_architectures(['original', 'a=b.c:d']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0


def test_a_builder_that_cannot_be_there_is_refused_without_running_its_file(tmp_path):
    file = tmp_path / "model.py"
    file.write_text("raise SystemExit('this was run')\ndef build(args): ...\n")
    check_architecture(f"{file}:build")
    check_architecture("original")
    check_architecture("torch.nn:Linear")
    for spec, said in (
        (f"{file}:biuld", "has no 'biuld'; it has build; name a function"),
        (f"{tmp_path}/nothing.py:build", "does not exist"),
        (f"{tmp_path}/nothing/:build", "not a Python file"),
        ("no_such_package.models:build", "there is no module 'no_such_package.models' here"),
    ):
        with pytest.raises(UsageError) as error:
            check_architecture(spec)
        says(error, said)
    file.write_text("def build(:\n")
    with pytest.raises(UsageError, match="it is not Python at line 1"):
        check_architecture(f"{file}:build")
    for content in ("from elsewhere import *", "from elsewhere import build", "build = 1", "globals()['build'] = 2", "x = build = 3"):
        file.write_text(content)
        check_architecture(f"{file}:build")
