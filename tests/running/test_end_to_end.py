"""`fps --end-to-end`: the stages together give what the parts give by hand; folders, captions, points and the cache of text features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from humar_bench import cli
from humar_bench.args import ModelArgs, RunArgs, WholeWorkload
from humar_bench.data.example import Example
from humar_bench.data.transforms import for_evaluation
from humar_bench.devices.device import CpuDevice
from humar_bench.errors import UsageError
from humar_bench.records.contradictions import contradictions
from humar_bench.records.record import load
from humar_bench.report.comparison import compare
from humar_bench.running.end_to_end import Cache, Pipeline, measure_end_to_end, pictures_of
from humar_bench.running.task import Task
from humar_bench.subjects.registry import parse_architecture
from humar_bench.uniphd import Captions, TextFeatures, padded_batch
from humar_bench.uniphd.postprocess import postprocess
from humar_bench.uniphd.text_encoders import WordPieceTokenizer

ARGS = ModelArgs(
    hidden_dim=32, nheads=4, dim_feedforward=48, enc_layers=1, dec_layers=2, num_queries=4, num_body_points=6, efficient_nheads=2,
    efficient_enc_layers=2,
)
EFFICIENT = parse_architecture("efficient")
SMALL = ("--whole", "--backbone", "mobilevit_xxs", "--text-encoder", "tinybert", "--image-size", "64x96", "--arch", "efficient", "--device",
         "cpu", "--threads", "1", "--budget", "0.2", "--max-runs", "3", "--num-queries", "4", "--set", "dec_layers=2")


def a_task(plan: dict | None = None, architectures=("efficient",), **given) -> Task:
    work = {"backbone": "mobilevit_xxs", "text_encoder": "tinybert", "image_size": (64, 96), "num_queries": 4, "batch": 1, **given}
    run = RunArgs(device="cpu", budget=0.2, max_runs=3)
    return Task("end_to_end", [parse_architecture(each) for each in architectures], ARGS, WholeWorkload(**work), run, plan=plan or {})


def a_pipeline(task: Task, **asked) -> tuple[Pipeline, list]:
    pictures, _ = pictures_of(task, asked.get("pictures"), asked.get("captions", ()), asked.get("point"))
    model = task.model(EFFICIENT, "cpu")
    return Pipeline(task, EFFICIENT, model, CpuDevice(), asked, pictures), pictures


def passed(pipeline: Pipeline, pictures: list):
    value = pictures
    for stage in pipeline.stages():
        value = stage.work(value)
    return value


@pytest.fixture
def folder(tmp_path):
    """Two pictures of two sizes, one grey, and files that are none."""
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (90, 120, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(generator.integers(0, 256, (80, 60), np.uint8)).save(tmp_path / "b.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    (tmp_path / "notes.txt").write_text("nothing")
    return tmp_path


def test_the_stages_give_what_the_parts_give_by_hand(folder):
    task = a_task(batch=2)
    pipeline, pictures = a_pipeline(task, pictures=str(folder), captions=("the man on the left", "she"))
    item = passed(pipeline, pictures)
    images, orig_sizes = [], []
    for name in ("a.png", "b.jpg"):
        picture = np.array(Image.open(folder / name).convert("RGB"))
        size = picture.shape[:2]
        nobody = [np.zeros(shape, np.float32) for shape in ((0, 4), (0, 17, 3), (0,))]
        image, target = for_evaluation(
            Example(picture, *nobody, np.zeros((0, *size), bool), np.zeros((5, 12, 2), np.float32), "", 0, size), 96
        )
        images.append(image)
        orig_sizes.append(target.orig_size)
    batch = padded_batch(images)
    with torch.inference_mode():
        outputs = pipeline.model(batch.images, batch.padding, Captions(*pipeline.tokenizer(["the man on the left", "she"])), batch.sizes)
        expected = postprocess(outputs, [tuple(image.shape[1:]) for image in images], orig_sizes)
    assert [stage.name for stage in pipeline.stages()] == [
        "decode", "resize", "normalise", "tokenise", "text encoder", "forward", "post-process"]
    for found, wanted in zip(item.found, expected, strict=True):
        assert torch.equal(found.scores, wanted.scores) and torch.equal(found.keypoints, wanted.keypoints)
        assert torch.equal(found.masks, wanted.masks)
    assert item.found[0].masks.shape[1:] == (90, 120) and item.found[1].masks.shape[1:] == (80, 60)


def test_a_picture_that_is_none_is_one_sentence_and_the_rest_is_measured(folder, capsys, tmp_path):
    records = tmp_path / "records.jsonl"
    code = cli.main(["fps", *SMALL, "--end-to-end", "--pictures", str(folder), "--records", str(records)])
    shown, said = capsys.readouterr()
    assert code == 1
    assert said.count("broken.jpg cannot be read") == 1 and "Traceback" not in said
    assert "Frames per second, pre- and post-processing included, batch 1" in shown
    told = "2 pictures (80x60, 90x120) of the folder, resized to at most 96 pixels; 1 could not be used: broken.jpg"
    assert told in " ".join(shown.split())
    [record] = load(records)
    assert record.ok and record.measured["pictures"] == 2 and len(record.measured["latency_s"]) == 3
    assert contradictions("end_to_end", record.measured, record.workload) == []


def test_made_up_pictures_and_cached_text(in_process, capsys, tmp_path):
    cached = ("--end-to-end", "--cache-text", "--caption", "the woman in red")
    code = cli.main(["fps", *SMALL, *cached, "--records", str(tmp_path / "r.jsonl")])
    shown, said = capsys.readouterr()
    assert code == 0, said
    [record] = load(tmp_path / "r.jsonl")
    assert record.measured["encoded_captions"] == 1 and record.measured["cached_text"] and record.measured["source"] == "made up"
    assert "looked up for a caption that was met before" in shown


@pytest.mark.parametrize("prompt", ["point", "scribble"])
def test_points_need_no_text(prompt):
    task = a_task(prompt=prompt)
    results = measure_end_to_end(task, CpuDevice())
    assert results["efficient"]["status"] == "ok", results["efficient"]["reason"]
    assert list(results["efficient"]["measured"]["stages"]) == ["decode", "resize", "normalise", "forward", "post-process"]


def test_a_point_outside_a_picture_leaves_that_picture_out(folder):
    found, unread = pictures_of(a_task(prompt="point"), str(folder), (), (100.0, 50.0))
    assert [picture.file.name for picture in found] == ["a.png"]
    assert [each["name"] for each in unread] == ["b.jpg", "broken.jpg"]
    assert "the point (100, 50) lies outside" in unread[0]["reason"]
    with pytest.raises(UsageError, match="none of the 3 pictures in .* can be used: the point .* lies outside"):
        pictures_of(a_task(prompt="point"), str(folder), (), (500.0, 50.0))


def test_architectures_are_measured_side_by_side_with_parts_of_their_own():
    results = measure_end_to_end(a_task(architectures=("original", "few=efficient[masks=none]")), CpuDevice())
    assert all(each["status"] == "ok" for each in results.values()), results
    assert set(results) == {"original", "few"}


def test_a_batch_larger_than_the_pictures_is_one_sentence(folder):
    with pytest.raises(UsageError, match="batch is 4 and 2 pictures can be read"):
        measure_end_to_end(a_task({"pictures": str(folder)}, batch=4), CpuDevice())


def test_cached_features_are_padded_to_the_longest():
    cache = Cache()
    for name, tokens in (("short", 2), ("long", 3)):
        cache.features[name] = TextFeatures(torch.ones(1, tokens, 4), torch.zeros(1, tokens, dtype=torch.bool), torch.full((1, 4), tokens))
    found = cache.of(["long", "short"])
    assert found.features.shape == (2, 3, 4) and found.padding.tolist() == [[False] * 3, [False, False, True]]
    assert found.sentence[:, 0].tolist() == [3, 2] and cache.missing(["short", "new", "new"]) == ["new"]


def test_cached_or_not_the_people_are_the_same():
    task = a_task(batch=2)
    plain, pictures = a_pipeline(task)
    cached, _ = a_pipeline(task, cache_text=True)
    first, again, expected = passed(cached, pictures[:2]), passed(cached, pictures[:2]), passed(plain, pictures[:2])
    for item in (first, again):
        for found, wanted in zip(item.found, expected.found, strict=True):
            torch.testing.assert_close(found.boxes, wanted.boxes, rtol=1e-4, atol=1e-2)
    assert cached.encoded == 2 and plain.encoded == 2


def test_a_tokenizer_of_the_captions_own_words():
    tokenizer = WordPieceTokenizer(["The man, left.", "a woman"], pad_id=1)
    ids, attention = tokenizer(["the man", "a woman left"])
    assert ids.shape == (2, 5) and attention.tolist() == [[1, 1, 1, 1, 0], [1] * 5]
    assert ids[0, 4] == 1 and ids[0, 0] == ids[1, 0] and ids.max() < 30_000 and ids[attention == 1].min() >= 1000
    with pytest.raises(UsageError, match="caption 1 is empty"):
        tokenizer(["the man", " "])


@pytest.mark.parametrize(("typed", "says"), [
    (("--end-to-end",), "only the whole model does; add --whole"),
    (("--whole", "--cache-text"), "--cache-text is of the way from pictures to people; add --end-to-end"),
    (("--whole", "--end-to-end", "--by-component"), "give one of the two"),
    (("--whole", "--end-to-end", "--caption", " "), "--caption is ' '; write what the person looks like"),
    (("--whole", "--end-to-end", "--prompt", "point", "--cache-text"), "--cache-text is of the prompt text and --prompt is point"),
    (("--whole", "--end-to-end", "--point", "3,4"), "--point is of the prompt point and --prompt is text"),
    (("--whole", "--end-to-end", "--prompt", "point", "--point", "left"), "--point is 'left'; write two numbers of pixels"),
    (("--whole", "--end-to-end", "--pictures", "nowhere"), "--pictures 'nowhere' is no folder"),
    (("--whole", "--end-to-end", "--pictures", "."), "holds no file that is called like a picture"),
])
def test_wrong_combinations_are_one_sentence(typed, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fps", *typed]) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.strip().splitlines()) == 1


def test_the_table_answers_what_people_ask():
    stages = {"decode": [0.01], "tokenise": [0.01], "text encoder": [0.02], "forward": [0.05], "post-process": [0.01]}
    lines = {"decode": "before", "tokenise": "before", "text encoder": "model", "forward": "model", "post-process": "after"}
    measured = {"stages": stages, "lines": lines, "latency_s": [0.1], "overlapped_s": [0.07], "burst": 4, "batch": 1, "pictures": 8,
                "source": "made up", "unreadable": [], "threads": 1, "cached_text": False, "tokens": [5, 9], "tokenizer": "x"}
    from tests.golden.records import made_up

    comparison = compare([made_up("end_to_end", "efficient", measured)])
    speed, by_stage = comparison.tables
    assert speed.title == "Frames per second, pre- and post-processing included, batch 1"
    row = speed.rows[0]
    assert (row["fps"], round(row["overlapped"], 3), round(row["forward_fps"], 3)) == (10, 14.286, 14.286)
    assert row["around"] == pytest.approx(0.3) and row["hidden"] == pytest.approx(1.0)
    assert any("decode, tokenise; text encoder, forward; post-process" in foot for foot in speed.feet)
    assert [each["part"] for each in by_stage.rows] == [*stages, "all stages"]
    assert {each["stage"] for each in comparison.data["end_to_end"].rows} == {*stages, "latency", "overlapped", "forward alone"}


def test_stages_that_do_not_add_up_are_no_record():
    measured = {"stages": {"decode": [0.5], "forward": [0.1]}, "lines": {"decode": "before", "forward": "model"}, "latency_s": [0.9],
                "overlapped_s": [0.4], "burst": 4, "batch": 1, "pictures": 8}
    assert any("its stages take 600 ms and the whole 900 ms" in each for each in contradictions("end_to_end", measured))
    assert any("overlapped, a picture takes" in each for each in contradictions(
        "end_to_end", {**measured, "latency_s": [0.6], "overlapped_s": [0.001]}))
    assert contradictions("end_to_end", {**measured, "latency_s": [0.6]}) == []
