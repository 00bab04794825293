"""RefHuman's files: read and transformed as published (golden files), without the published mistakes; written and read back unchanged."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from humar_bench.data import transforms
from humar_bench.data.datasets import EvaluationSet, TrainingSet
from humar_bench.data.draws import Draws, key_of
from humar_bench.data.example import Example
from humar_bench.data.export import export_people, rectangles
from humar_bench.data.people import ProceduralPeople
from humar_bench.data.refhuman import RefHuman, decode_mask, to_example
from humar_bench.data.sources import open_source
from humar_bench.errors import UsageError

GOLDEN, RECORDED = Path(__file__).with_name("refhuman.json"), Path(__file__).with_name("refhuman.npz")


def golden_folder(folder: Path) -> Path:
    """The golden annotations with their pictures, as a folder of the training split."""
    content = json.loads(GOLDEN.read_bytes())
    (folder / "images").mkdir()
    for image, seed in zip(content["images"], content["note"]["image_seeds"], strict=True):
        pixels = np.random.RandomState(seed).randint(0, 256, (image["height"], image["width"], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / image["file_name"])
    for split in ("train", "val"):
        (folder / f"RefHuman_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def golden(tmp_path) -> Path:
    return golden_folder(tmp_path)


def changed(folder: Path, change, split: str = "train") -> Path:
    """The folder after `change` of a split's content."""
    path = folder / f"RefHuman_{split}.json"
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))
    return folder


def replaced(path: Path, by) -> None:
    path.unlink()
    by(path)


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of that size with next to no pixels in it."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def draws(*key: object) -> Draws:
    return Draws(key_of("train", "test of transforms", *key))


def small(level: int = 1, index: int = 0, **size) -> Example:
    return ProceduralPeople("train", level, **size)[index]


# Golden files


@pytest.mark.parametrize("kind", ["val", "train"])
@pytest.mark.parametrize("index", [0, 1])
def test_reader_and_transforms_equal_the_golden_files(golden, kind, index):
    recorded, note = np.load(RECORDED), json.loads(GOLDEN.read_bytes())["note"]
    example = RefHuman(golden, kind)[index]
    if kind == "train":  # the published training transform with its chances fixed
        top, left, *size = note["crop"]
        example = transforms.crop(transforms.flip(example), top, left, tuple(size))
        example = transforms.resize(example, transforms.fitting(example.size, *note["resize"]))
        picture, target = transforms.to_target(example)
    else:
        picture, target = EvaluationSet(RefHuman(golden, kind))[index]
    at = f"{kind}{index}/"
    (step,) = (int(name.split("@")[1]) for name in recorded if name.startswith(f"{at}image@"))
    assert list(picture.shape) == recorded[f"{at}image_shape"].tolist()
    assert np.abs(picture.flatten()[::step].numpy() - recorded[f"{at}image@{step}"]).max() < 1e-6
    for name in ("boxes", "labels", "keypoints", "area", "scribble", "size", "orig_size"):
        assert np.allclose(np.asarray(getattr(target, name)), recorded[at + name], rtol=0, atol=1e-7), name
    mask = np.unpackbits(recorded[f"{at}masks"])[: target.masks.numel()].astype(bool)
    assert np.array_equal(target.masks.numpy().ravel(), mask) and mask.sum() == recorded[f"{at}mask_pixels"]
    assert target.caption == recorded[f"{at}caption"].tobytes().decode()
    assert target.image_id == [10, 11][index]


# The reader


def test_training_leaves_out_entries_without_people_and_evaluation_keeps_them(golden):
    def change(content):
        content["annotations"][0]["keypoints"][2::3] = [0] * 17
        del content["annotations"][1]

    changed(changed(golden, change), change, "val")
    with pytest.raises(UsageError, match="RefHuman_train.json has no entry that can be used"):
        RefHuman(golden, "train")
    evaluation = EvaluationSet(RefHuman(golden, "val"))
    assert len(evaluation) == 2
    for index in (0, 1):  # published: these raise
        picture, target = evaluation[index]
        assert len(target.labels) == 0 and target.boxes.shape == (0, 4) and target.keypoints.shape == (0, 51)
        assert target.masks.shape == (0, *picture.shape[1:]) and target.scribble.shape == (12, 2)


@pytest.mark.parametrize(("change", "people"), [
    ({}, 1), ({"iscrowd": 1}, 0), ({"num_keypoints": 0}, 0), ({"bbox": [200, 5, 10, 10]}, 0), ({"bbox": [5, 5, 0, 10]}, 0),
])
def test_crowds_people_without_keypoints_and_empty_boxes_are_left_out(golden, change, people):
    changed(golden, lambda content: content["annotations"][0].update(change), "val")
    assert len(RefHuman(golden, "val")[0].boxes) == people


def test_scribbles_may_be_flat_and_captions_absent(golden):
    reader = RefHuman(golden, "val")
    assert [reader[index].scribbles.shape for index in (0, 1)] == [(5, 12, 2)] * 2  # the second is flat in the file
    changed(golden, lambda content: content["images"][0].pop("caption"), "val")
    assert RefHuman(golden, "val")[0].caption == "ssssss"


@pytest.mark.parametrize(("mode", "pixel"), [("RGBA", (10, 20, 30, 0)), ("CMYK", (0, 255, 255, 0)), ("L", 77), ("P", 3), ("LA", (9, 90))])
def test_pictures_of_any_colours_become_rgb(golden, mode, pixel):
    path = golden / "images" / ("p0.tif" if mode == "CMYK" else "p0.png")
    Image.new(mode, (100, 75), pixel).save(path)
    changed(golden, lambda content: content["images"][0].update(file_name=path.name), "val")
    picture = RefHuman(golden, "val")[0].picture
    assert picture.shape == (75, 100, 3) and picture.dtype == np.uint8
    expected = {"RGBA": (10, 20, 30), "CMYK": (255, 0, 0), "L": (77,) * 3, "LA": (9,) * 3}
    assert mode == "P" or tuple(picture[0, 0]) == expected[mode]


def test_masks_are_read_from_polygons_and_from_runs():
    mask = np.zeros((6, 7), bool)
    mask[1:4, 2:5] = True
    polygon = [[2, 1, 5, 1, 5, 4, 2, 4]]
    assert np.array_equal(decode_mask(polygon, (6, 7)), mask)
    columns = mask.T.ravel()
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], columns, [0]]))), prepend=0).tolist()
    assert np.array_equal(decode_mask({"size": [6, 7], "counts": [*runs, columns.size - sum(runs)]}, (6, 7)), mask)
    assert not decode_mask([], (6, 7)).any() and not decode_mask(None, (6, 7)).any()


@pytest.mark.parametrize(("break_it", "sentence"), [
    (lambda folder: (folder / "RefHuman_train.json").unlink(), "cannot be read: No such file"),
    (lambda folder: (folder / "RefHuman_train.json").write_text("{"), "is not JSON"),
    (lambda folder: (folder / "RefHuman_train.json").write_text("[]"), "has no list 'images'; it must be in COCO's layout."),
    (lambda folder: changed(folder, lambda content: content["images"][1].pop("file_name")), "number 1 of 'images' is not an object with"),
    (lambda folder: (folder / "images" / "p0.png").unlink(), "p0.png cannot be read"),
    (lambda folder: (folder / "images" / "p0.png").write_bytes(b"no picture"), "p0.png cannot be read: cannot identify image file"),
    (lambda folder: (folder / "images" / "p0.png").write_bytes((folder / "images" / "p0.png").read_bytes()[:900]), "p0.png cannot be read"),
    (
        lambda folder: changed(folder, lambda content: content["annotations"][0].pop("scribble")),
        "entry 10 of .* cannot be read: ValueError: scribble is missing",
    ),
    (
        lambda folder: changed(folder, lambda content: content["annotations"][0].update(scribble=[[[1, 2]], [[1, 2], [3, 4]]])),
        "entry 10 of .* cannot be read: ValueError: scribble is not a list of numbers",
    ),
    (lambda folder: changed(folder, lambda content: content["images"][0].update(id=[1])), r"id of number 0 of 'images' is \[1\]; it must"),
    (lambda folder: changed(folder, lambda content: content["images"][0].update(file_name=5)), "file_name of number 0 .* must be text"),
    (lambda folder: changed(folder, lambda content: content["annotations"][0].update(image_id={})), "image_id of number 0 of 'annot"),
    (lambda folder: changed(folder, lambda content: content["annotations"][0].update(id=True)), "id of number 0 of 'annotations' is True"),
    (lambda folder: (folder / "RefHuman_train.json").write_text('{"images": [], "images": []}'), "gives the key 'images' twice"),
    (lambda folder: (folder / "RefHuman_train.json").write_text("9" * 5000), "a whole number of 5000 digits"),
    (lambda folder: (folder / "RefHuman_train.json").write_text("[" * 900 + "]" * 900), "nested more than 100 levels deep"),
    (lambda folder: replaced(folder / "RefHuman_train.json", os.mkfifo), "it is a pipe and only regular files are read"),
    (lambda folder: replaced(folder / "images" / "p0.png", os.mkfifo), "p0.png cannot be read: it is a pipe and only regular files"),
    (lambda folder: replaced(folder / "images" / "p0.png", lambda path: path.symlink_to("/dev/zero")), "p0.png cannot be read: it is a "),
    (lambda folder: (folder / "images" / "p0.png").write_bytes(png_that_claims(20_000, 20_000)), "p0.png cannot be read: .*400000000"),
    (lambda folder: (folder / "images" / "p0.png").write_bytes(png_that_claims(7_000, 7_000)), "it has 7000 x 7000 pixels; at most 33,5"),
    (lambda folder: (folder / "images" / "p0.png").write_bytes(POSTSCRIPT), "p0.png cannot be read: cannot identify image file"),
])
def test_a_folder_that_cannot_be_read_is_one_sentence(golden, break_it, sentence):
    break_it(golden)
    with pytest.raises(UsageError, match=sentence):
        RefHuman(golden, "train")[0]


@pytest.mark.parametrize(("data", "sentence"), [
    ("procedural", "the data is 'procedural'; write procedural:LEVEL, such as procedural:1, or procedural:0-1 for level 0 first."),
    ("procedural:7", "the level is 7; choose one of 0, 1, 2."),
    ("no/folder", "the data is 'no/folder', which is no folder; give procedural:LEVEL or a folder in RefHuman's format."),
])
def test_data_that_is_not_there_is_one_sentence(data, sentence):
    with pytest.raises(UsageError) as refused:
        open_source(data, "train")
    assert str(refused.value) == sentence


def test_data_is_opened_by_one_name(golden):
    assert isinstance(open_source(str(golden), "val"), RefHuman)
    people = open_source("procedural:2", "test", seed=4, length=9, size=64)
    assert isinstance(people, ProceduralPeople) and (len(people), people.level, people[0].size) == (9, 2, (64, 64))
    with pytest.raises(UsageError, match="the split is 'test'; RefHuman has train and val."):
        open_source(str(golden), "test")


# Transforms


@pytest.mark.parametrize(("caption", "other"), [
    ("the man on the right in a bright shirt", "the man on the left in a bright shirt"),  # published: a "bleft shirt"
    ("leftmost; right-hand side, Left, RIGHT", "rightmost; left-hand side, Right, LEFT"),
    ("an upright copyright lefty with leftovers", "an upright copyright lefty with leftovers"),
    ("second from the left, left of the tree", "second from the right, right of the tree"),
])
def test_a_flip_swaps_sides_in_words_only(caption, other):
    assert transforms.mirrored(caption) == other and transforms.mirrored(other) == caption


def test_two_flips_are_none_and_one_mirrors_everything():
    example = small()
    once = transforms.flip(example)
    twice = transforms.flip(once)
    for field in dataclasses.fields(Example):
        assert np.array_equal(getattr(twice, field.name), getattr(example, field.name)), field.name
    width = example.size[1]
    assert np.array_equal(once.picture, example.picture[:, ::-1])
    assert np.allclose(once.keypoints[0, 5], [width - 1 - example.keypoints[0, 6, 0], *example.keypoints[0, 6, 1:]])
    rows, columns = np.nonzero(once.masks[0])
    assert once.boxes[0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert once.masks[0][once.scribbles[..., 1].astype(int), once.scribbles[..., 0].astype(int)].all()


def test_a_crop_cuts_masks_scribbles_and_people_alike():
    example = small(1)
    left, top, right, bottom = example.boxes[0].astype(int)
    inside = transforms.crop(example, top, left, (bottom - top, right - left))
    assert inside.size == (bottom - top, right - left) and inside.boxes.tolist() == [[0, 0, right - left, bottom - top]]
    assert inside.masks.sum() == example.masks.sum() and inside.area[0] == inside.boxes[0, 2] * inside.boxes[0, 3]
    x, y = inside.scribbles[..., 0].astype(int), inside.scribbles[..., 1].astype(int)
    assert inside.masks[0][y, x].all()
    gone = transforms.crop(example, top, right, (bottom - top, example.size[1] - right))
    assert len(gone.boxes) == len(gone.masks) == len(gone.keypoints) == len(gone.area) == 0
    assert transforms.to_target(gone)[1].masks.shape == (0, *gone.size)


def test_a_cut_off_keypoint_stays_at_the_border_as_published_or_is_unlabelled():
    example = small(0)
    left, top, right, bottom = example.boxes[0].astype(int)
    below = bottom - (bottom - top) // 3
    kept = transforms.crop(example, 0, 0, (below, example.size[1]))
    ankle = example.keypoints[0, 15]
    assert ankle[1] > below
    assert kept.keypoints[0, 15].tolist() == [ankle[0], below, ankle[2]]
    unlabelled = transforms.crop(example, 0, 0, (below, example.size[1]), keep_cut=False)
    assert unlabelled.keypoints[0, 15].tolist() == [0, 0, 0]
    assert np.array_equal(unlabelled.keypoints[0, 0], example.keypoints[0, 0])


@pytest.mark.parametrize(("size", "shorter", "longest", "result"), [
    ((480, 640), 640, 640, (480, 640)), ((75, 100), 640, 640, (480, 640)), ((130, 91), 640, 640, (640, 448)),
    ((427, 640), 360, 640, (360, 539)),  # 539.58: the longer side is cut, not rounded
    ((333, 500), 640, 640, (426, 639)),  # 426.24 rounds to 426, and 639.6 is cut
    ((100, 300), 600, 640, (213, 639)), ((500, 400), 400, None, (500, 400)), ((50, 400), 600, None, (600, 4800)),
])
def test_sizes_are_rounded_as_published(size, shorter, longest, result):
    assert transforms.fitting(size, shorter, longest) == result


def test_training_sizes_flips_crops_and_scribbles_come_from_chance():
    example = small(0, size=(120, 160))
    sizes, captions, areas, scribbles = set(), set(), set(), set()
    for index in range(60):
        picture, target = transforms.for_training(dataclasses.replace(example, caption="on the left"), draws(index))
        assert target.size == tuple(picture.shape[1:]) == tuple(target.masks.shape[1:])
        assert min(target.size) <= 640 and max(target.size) <= 640
        x, y = target.scribble.T.long()
        assert target.masks[0][y, x].float().mean() > 0.9
        sizes.add(min(target.size))
        captions.add(target.caption)
        areas.add(round(float(target.area), 4))
        scribbles.add(target.scribble[0, 0].item() / target.size[1])
    assert len(sizes) > 8 and captions == {"on the left", "on the right"} and len(areas) > 10 and len(scribbles) > 20


def test_a_scribble_outside_the_mask_is_drawn_anew_inside_it():
    example = small(0, size=256)
    assert transforms.keep_inside(example, draws(), 2) is example
    outside = example.scribbles.copy()
    outside[2] = [[-3, 4]] * 12
    anew = transforms.keep_inside(dataclasses.replace(example, scribbles=outside), draws(), 2).scribbles
    assert np.array_equal(np.delete(anew, 2, 0), np.delete(example.scribbles, 2, 0))
    x, y = anew[2].astype(int).T  # published: (row, column) is taken for (x, y)
    assert example.masks[0][y, x].all() and not np.array_equal(anew[2], example.scribbles[2])
    tiny = dataclasses.replace(example, scribbles=outside, masks=np.zeros_like(example.masks))
    assert transforms.keep_inside(tiny, draws(), 2) is tiny


# Data sets


def test_chance_is_decided_by_seed_epoch_and_number_alone():
    source = ProceduralPeople("train", 0, length=3, size=64)
    first, again, other = TrainingSet(source, seed=1), TrainingSet(source, seed=1), TrainingSet(source, seed=2)
    first[2]
    (a, _), (b, _), (c, _) = first[1], again[1], other[1]
    assert torch.equal(a, b) and not (a.shape == c.shape and torch.equal(a, c))
    again.set_epoch(5)
    d, _ = again[1]
    assert not (a.shape == d.shape and torch.equal(a, d))


def test_without_augmentation_only_the_scribble_changes():
    source = ProceduralPeople("train", 0, length=2, size=64)
    plain = TrainingSet(source, augment=False)
    seen = set()
    for epoch in range(20):
        plain.set_epoch(epoch)
        picture, target = plain[0]
        assert torch.equal(picture, EvaluationSet(source, resized=False)[0][0])
        seen.add(target.scribble.numpy().tobytes())
    assert len(seen) == 5


def test_somebody_who_is_cropped_away_is_replaced():
    class Corner:
        """Everybody stands in one corner of a picture that is cut to less than half."""

        asked: list[int] = []

        def __len__(self):
            return 50

        def __getitem__(self, index):
            self.asked.append(index)
            example = small(0, size=64)
            box = np.array([[0, 0, 4, 4]], np.float32)
            return dataclasses.replace(example, boxes=box, masks=np.zeros_like(example.masks))

    training = TrainingSet(Corner(), seed=3)
    for index in range(12):
        _, target = training[index]
        assert len(target.boxes) == 1
    assert len(Corner.asked) > 12 and not set(Corner.asked) <= set(range(12))


def test_where_nobody_is_ever_left_it_is_said():
    nobody = dataclasses.replace(small(0, size=64), boxes=np.zeros((0, 4), np.float32), keypoints=np.zeros((0, 17, 3), np.float32),
                                 masks=np.zeros((0, 64, 64), bool), area=np.zeros(0, np.float32))

    with pytest.raises(UsageError, match="100 entries in a row had nobody left in their crop; check the boxes"):
        TrainingSet([nobody] * 3)[0]


# Export


@pytest.mark.parametrize("level", [0, 2])
def test_what_is_exported_is_read_back_unchanged(tmp_path, level):
    sets = {split: ProceduralPeople(split, level, length=6, size=(96, 128)) for split in ("train", "val")}
    heard = []
    files = export_people(tmp_path / "people", sets, lambda share, split: heard.append((share, split)))
    assert [path.name for path in files] == ["RefHuman_train.json", "RefHuman_val.json"]
    assert heard[-1] == (1.0, "val") and len(heard) == 12
    for split, people in sets.items():
        read = RefHuman(tmp_path / "people", split)
        assert len(read) == len(people) == 6
        for index in range(6):
            for field in dataclasses.fields(Example):
                written, back = getattr(people[index], field.name), getattr(read[index], field.name)
                close = np.allclose(written, back, atol=0.006) if field.name == "keypoints" else np.array_equal(written, back)
                assert close, (split, index, field.name)


def test_exported_annotations_are_coco(tmp_path):
    (path,) = export_people(tmp_path, {"val": ProceduralPeople("val", 1, length=4)})
    content = json.loads(path.read_bytes())
    assert content["categories"][0]["name"] == "person"
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        assert annotation["image_id"] == image["id"] and annotation["id"] > 0
        assert annotation["num_keypoints"] == sum(visible > 0 for visible in annotation["keypoints"][2::3])
        assert np.array(annotation["scribble"]).shape == (5, 12, 2)
        assert isinstance(image["caption"], str) and (image["height"], image["width"]) == (128, 128)
        people = to_example(image, [annotation], np.zeros((128, 128, 3), np.uint8))
        assert people.masks.sum() == annotation["area"]


def test_rectangles_hold_holes_and_parts_that_lie_apart():
    mask = np.random.RandomState(0).rand(31, 17) < 0.5
    mask[3:9, 4:9] = True
    mask[5, 6] = False
    assert np.array_equal(decode_mask(rectangles(mask), mask.shape), mask)
    assert sum((right - left) * (bottom - top) for left, top, _, _, right, bottom, _, _ in rectangles(mask)) == mask.sum()
    block = np.zeros((9, 9), bool)
    block[2:7, 3:8] = True
    assert rectangles(block) == [[3, 2, 8, 2, 8, 7, 3, 7]] and rectangles(np.zeros((3, 3), bool)) == []


def test_export_refuses_a_folder_in_use(tmp_path):
    sets = {"val": ProceduralPeople("val", 0, length=1)}
    export_people(tmp_path, sets)
    with pytest.raises(UsageError, match="RefHuman_val.json exists already; name another folder or remove it."):
        export_people(tmp_path, sets)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written: Not a directory; make room or name another folder."):
        export_people(tmp_path / "file", sets)
