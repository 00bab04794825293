"""What is typed becomes arguments that agree with each other, or one sentence that says why not."""

from __future__ import annotations

import dataclasses
import json

import pytest

from humar_bench.args import ModelArgs, RunArgs, Workload
from humar_bench.errors import UsageError
from humar_bench.options import Output, Selection
from humar_bench.running.plan import Plan, resolve, resolve_work, scaled_for_cpu


def work(**typed) -> tuple[ModelArgs, Workload]:
    return resolve_work(Selection(**typed))


def test_defaults_are_the_two_architectures_on_the_uniphd_workload():
    plan = resolve(Selection())
    assert isinstance(plan, Plan)
    assert [each.name for each in plan.architectures] == ["original", "efficient"]
    assert plan.reference == "original"
    assert plan.args == ModelArgs()
    assert plan.workload == Workload.uniphd()
    assert plan.run == RunArgs()


def test_the_speed_test_workload_sets_levels_and_queries_of_the_models():
    args, workload = work(workload="speed-test")
    assert workload == Workload.speed_test()
    assert (args.num_feature_levels, args.num_queries) == (3, 300)


def test_the_real_use_is_a_photo_of_640_pixels_and_large_is_what_detection_papers_use():
    assert work(batch=1)[1].sizes_text == "60x80,30x40,15x20,8x10"
    large = work(workload="large", batch=1)[1]
    assert (large.name, large.num_queries, large.sizes_text) == ("large", 20, "100x134,50x67,25x34,13x17")
    assert work(image_size="480x640")[1].name == "uniphd" and work(image_size="800x1066", workload="large")[1].name == "large"


def test_fewer_levels_take_the_first_maps_of_the_workload():
    args, workload = work(set=("num_feature_levels=3",))
    assert workload.feature_sizes == Workload.uniphd().feature_sizes[:3]
    assert args.num_feature_levels == 3
    assert workload.name == "custom"


def test_speed_test_with_three_levels_keeps_its_name():
    args, workload = work(workload="speed-test", set=("num_feature_levels=3",), batch=7)
    assert (workload.name, workload.sizes_text, workload.batch) == ("speed-test", "50x50,50x50,50x50", 7)
    assert args.num_feature_levels == 3


def test_feature_sizes_decide_the_number_of_levels():
    args, workload = work(feature_sizes="50x67, 25x34")
    assert workload.feature_sizes == ((50, 67), (25, 34))
    assert args.num_feature_levels == 2


def test_image_size_makes_the_pyramid_of_that_image():
    args, workload = work(image_size="256x192", set=("num_feature_levels=5",))
    assert workload.feature_sizes == ((32, 24), (16, 12), (8, 6), (4, 3), (2, 2))
    assert args.num_feature_levels == 5


@pytest.mark.parametrize("typed", [{"num_queries": 7}, {"set": ("num_queries=7",)}, {"num_queries": 7, "set": ("num_queries=7",)}])
def test_queries_agree_between_models_and_workload(typed):
    args, workload = work(**typed)
    assert args.num_queries == workload.num_queries == 7


def test_settings_are_read_by_the_type_of_their_field():
    args, _ = work(set=("pre_norm=yes", "dropout=0.1", "enc_layers=4", "transformer_activation=gelu", "efficient_local_conv=false"))
    assert (args.pre_norm, args.dropout, args.enc_layers, args.transformer_activation) == (True, 0.1, 4, "gelu")
    assert args.efficient_local_conv is False


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_a_file_sets_fields_and_the_command_line_counts_more(tmp_path, suffix):
    values = {"enc_layers": 3, "dec_layers": 2, "num_queries": 9, "num_feature_levels": 2}
    file = tmp_path / f"args.{suffix}"
    file.write_text(json.dumps(values) if suffix == "json" else "".join(f"{name} = {value}\n" for name, value in values.items()))
    args, workload = work(args=str(file), set=("dec_layers=1",), num_queries=4)
    assert (args.enc_layers, args.dec_layers, args.num_queries, args.num_feature_levels) == (3, 1, 4, 2)
    assert workload.num_queries == 4
    assert work(args=str(file))[1].num_queries == 9
    assert work(args=str(file), feature_sizes="9x9,5x5,3x3")[0].num_feature_levels == 3


def test_every_field_can_be_set_by_its_own_default():
    for option in dataclasses.fields(ModelArgs):
        args, _ = work(set=(f"{option.name}={option.default}",))
        assert getattr(args, option.name) == option.default, option.name


WRONG = [
    ({"workload": "huge"}, "workload is 'huge'; choose one of speed-test, uniphd, large, tiny."),
    ({"batch": 0}, "batch is 0; it must be a whole number of at least 1."),
    ({"batch": -2}, "batch is -2; it must be a whole number of at least 1."),
    ({"num_queries": 0}, "num_queries is 0; it must be a whole number of at least 1."),
    ({"num_queries": 3, "set": ("num_queries=4",)}, "--num-queries is 3 and --set num_queries is 4; give one of the two."),
    ({"feature_sizes": "50"}, "the size '50' is not HEIGHTxWIDTH; write two positive whole numbers, such as 50x67."),
    ({"feature_sizes": "50x50,"}, "the size '' is not HEIGHTxWIDTH; write two positive whole numbers, such as 50x67."),
    ({"feature_sizes": "0x50"}, "the size '0x50' is not HEIGHTxWIDTH; write two positive whole numbers, such as 50x67."),
    (
        {"feature_sizes": "9x9,5x5", "set": ("num_feature_levels=3",)},
        "--set num_feature_levels is 3 and --feature-sizes names 2 levels; make the two agree or leave one out.",
    ),
    ({"feature_sizes": "9x9", "image_size": "80x80"}, "--feature-sizes is 9x9 and --image-size is 80x80; give one of the two."),
    ({"image_size": "80by80"}, "the size '80by80' is not HEIGHTxWIDTH; write two positive whole numbers, such as 50x67."),
    (
        {"image_size": "80x80", "set": ("num_feature_levels=13",)},
        "num_feature_levels is 13; --image-size makes at most 12, name more with --feature-sizes.",
    ),
    (
        {"workload": "speed-test", "set": ("num_feature_levels=4",)},
        "num_feature_levels is 4 and the workload speed-test has 3 levels; name 4 sizes with --feature-sizes, or give --image-size.",
    ),
    ({"set": ("num_feature_levels=0",)}, "num_feature_levels is 0; it must be at least 1."),
    ({"set": ("enc_layers",)}, "--set is 'enc_layers'; write FIELD=VALUE, such as enc_layers=4."),
    ({"set": ("=4",)}, "--set is '=4'; write FIELD=VALUE, such as enc_layers=4."),
    ({"set": ("enc_layers=",)}, "--set is 'enc_layers='; write FIELD=VALUE, such as enc_layers=4."),
    ({"set": ("enc_layer=4",)}, "--set enc_layer: ModelArgs has no field 'enc_layer'; did you mean enc_layers or dec_layers?"),
    ({"set": ("zzz=4",)}, "--set zzz: ModelArgs has no field 'zzz'; `humar-bench list` names them all."),
    ({"set": ("enc_layers=four",)}, "--set enc_layers is 'four'; it must be a whole number."),
    ({"set": ("dropout=much",)}, "--set dropout is 'much'; it must be a number."),
    ({"set": ("dropout=nan",)}, "dropout is nan; it must be a finite number."),
    ({"set": ("pre_norm=maybe",)}, "--set pre_norm is 'maybe'; it must be true or false."),
    ({"set": ("enc_layers=4", "enc_layers=5")}, "--set gives enc_layers twice, 4 and 5; give it once."),
    ({"set": ("nheads=7",)}, "nheads 7 does not divide hidden_dim 256; choose a number of heads that does."),
]


@pytest.mark.parametrize(("typed", "sentence"), WRONG, ids=[sentence.split(";")[0][:40] for _, sentence in WRONG])
def test_what_cannot_be_is_refused_in_one_sentence(typed, sentence):
    with pytest.raises(UsageError) as refused:
        work(**typed)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(("name", "content", "sentence"), [
    ("args.yaml", b"", "must end in .json or .toml."),
    ("args.json", None, "cannot be read: No such file or directory; name a file that can."),
    ("args.json", b"{", "is not JSON: Expecting property name"),
    ("args.json", b"[" * 20_000, "is not JSON: "),
    ("args.toml", b"enc_layers 4", "is not TOML: "),
    ("args.json", b"\xff\xfe", "is not UTF-8 text (byte 0); save it as UTF-8."),
    ("args.json", b"[1]", "holds a list; it must hold fields of ModelArgs with their values."),
    ("args.json", b'{"enc_layer": 4}', "ModelArgs has no field 'enc_layer'; did you mean enc_layers or dec_layers?"),
])
def test_a_file_of_arguments_that_cannot_be_read_is_one_sentence(tmp_path, name, content, sentence):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        work(args=str(file))
    assert sentence in str(refused.value) and str(refused.value).startswith("--args ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("content", "sentence"), [
    ('{"enc_layers": "4"}', "enc_layers is '4'; it must be a whole number."),
    ('{"num_queries": "4"}', "num_queries is '4'; it must be a whole number of at least 1."),
    ('{"num_feature_levels": true}', "num_feature_levels is True; it must be a whole number."),
])
def test_a_value_of_the_wrong_type_in_a_file_is_named(tmp_path, content, sentence):
    (tmp_path / "args.json").write_text(content)
    with pytest.raises(UsageError) as refused:
        work(args=str(tmp_path / "args.json"))
    assert str(refused.value) == sentence


def test_a_reference_that_is_not_measured_is_refused():
    with pytest.raises(UsageError, match="reference is 'old'; choose one of the architectures measured: original, efficient."):
        resolve(Selection(reference="old"))
    assert resolve(Selection(reference="efficient")).reference == "efficient"


def test_two_formats_cannot_share_standard_output():
    with pytest.raises(UsageError, match="--csv and --json both ask for standard output; give a path to all but one."):
        Output(csv="-", json="-")
    with pytest.raises(UsageError, match="--records is '-'"):
        Output(records="-")
    assert Output(csv="-", json="file").stdout_format == "csv"
    assert Output().stdout_format is None


def test_every_option_has_a_sentence():
    for owner in (Selection, Output, RunArgs):
        for option in dataclasses.fields(owner):
            assert option.metadata["help"].endswith("."), option.name


def test_on_a_cpu_only_the_default_workload_is_scaled_down_and_only_where_no_batch_was_asked() -> None:
    assert scaled_for_cpu(Selection()).batch == 1
    assert scaled_for_cpu(Selection(batch=4)).batch == 4
    assert scaled_for_cpu(Selection(workload="speed-test")).batch is None
