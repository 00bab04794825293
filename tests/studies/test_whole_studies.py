"""Studies of the whole model: what grows, what a forward could do, how two runs compare; each from the command line, on tiny work."""

from __future__ import annotations

import csv
import io
import math

import pytest

from humar_bench import cli
from humar_bench.args import ModelArgs, WholeWorkload, Workload
from humar_bench.errors import UsageError
from humar_bench.records.record import load
from humar_bench.studies.scaling.scaling import AXES, image_of, work_at
from humar_bench.studies.scaling.tables import place

SMALL = ("--whole", "--backbone", "mobilevit_xxs", "--text-encoder", "tinybert", "--workload", "tiny", "--batch", "1", "--arch",
         "efficient", "--set", "dec_layers=2", "--threads", "1", "--device", "cpu", "--quiet")


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("pixels", [1, 12_288, 19_200, 100_000, 307_200, 5_000_000])
def test_images_are_3_to_4_in_steps_every_backbone_takes(pixels):
    height, width = image_of(pixels)
    assert height % 32 == width % 32 == 0 and 4 * height == 3 * width
    step = math.isqrt(height * width // (12 * 32 * 32))
    assert pixels < 12_288 or abs(height * width - pixels) <= 12 * 1024 * (2 * step + 1) / 2 + 1


@pytest.mark.parametrize("name", [each.name for each in AXES.values() if each.whole is not False])
def test_each_axis_moves_what_it_names_and_nothing_else(name):
    args, work, value = ModelArgs(), WholeWorkload(batch=1), 24 if name != "pixels" else 98_304
    new_args, new_work = work_at(AXES[name], value, args, work)
    assert place(AXES[name], new_args, new_work) == (value if name != "pixels" else math.prod(image_of(value)))
    before, after = vars(work), vars(new_work)
    moved = {key for key in before if before[key] != after[key]} - {"name"}
    assert moved == {"pixels": {"image_size", "feature_sizes"}, "caption": {"caption_tokens"}, "queries": {"num_queries"},
                     "batch": {"batch"}, "keypoints": set()}[name]


def test_an_axis_of_the_other_subject_is_one_sentence():
    with pytest.raises(UsageError, match="over is 'caption' and that is of the whole model; add --whole"):
        work_at(AXES["caption"], 8, ModelArgs(), Workload.tiny())
    with pytest.raises(UsageError, match="over is 'tokens' and that is of a transformer alone; leave out --whole, or take pixels"):
        work_at(AXES["tokens"], 1024, ModelArgs(), WholeWorkload())


def test_costs_grow_with_the_caption_in_the_text_encoder_and_the_fusion(in_process, capsys):
    assert cli.main(["scaling", *SMALL, "--over", "caption", "--from", "4", "--to", "16", "--points", "3", "--no-time", "--csv", "-"]) == 0
    exponents, points = map(rows, capsys.readouterr().out.split("\n\n"))
    found = {row["cost"]: float(row["exponent"]) for row in exponents}
    assert found["parameters"] == 0 and 0 < found["matmul and conv"] < 1
    assert [int(row["caption"]) for row in points] == [4, 8, 16] and not any(row["theory"] for row in exponents)


def test_pixels_are_what_grows_by_default(in_process, capsys, tmp_path):
    typed = ("--from", "12288", "--to", "110592", "--points", "3", "--no-time", "-o", str(tmp_path / "scaling"))
    assert cli.main(["scaling", *SMALL, *typed]) == 0, capsys.readouterr().err
    points = rows((tmp_path / "scaling" / "points.csv").read_text())
    assert [int(row["pixels"]) for row in points] == [96 * 128, 192 * 256, 288 * 384]
    text = (tmp_path / "scaling" / "scaling.md").read_text()
    assert "backbone mobilevit_xxs, text encoder tinybert, prompt text of 12 tokens, masks all" in text
    assert cli.main(["verify", str(tmp_path / "scaling")]) == 0


@pytest.mark.slow
def test_a_roofline_of_the_whole_model(in_process, capsys):
    assert cli.main(["roofline", *SMALL, "--no-time", "--csv", "-"]) == 0, capsys.readouterr().err
    row = rows(capsys.readouterr().out.split("\n\n")[0])[0]
    assert row["architecture"] == "efficient" and int(row["matmul_flops"]) > 0 and float(row["floor_s"]) > 0


def test_two_runs_of_the_whole_model_are_compared(in_process, capsys, tmp_path):
    for name in ("old", "new"):
        assert cli.main(["params", *SMALL, "--records", str(tmp_path / f"{name}.jsonl")]) == 0
    assert cli.main(["params", *SMALL, "--masks", "none", "--records", str(tmp_path / "other.jsonl")]) == 0
    capsys.readouterr()
    assert cli.main(["compare", str(tmp_path / "old.jsonl"), str(tmp_path / "new.jsonl")]) == 0
    code = cli.main(["compare", str(tmp_path / "old.jsonl"), str(tmp_path / "other.jsonl")])
    assert code != 0 and "masks" in "".join(capsys.readouterr())
    assert load(tmp_path / "old.jsonl")[0].workload["backbone"] == "mobilevit_xxs"
