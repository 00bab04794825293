"""`data check` finds what is wrong with a folder, entry by entry, and nothing in one that is right; the contact sheet shows labels."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from humar_bench.data.check import FolderCheck
from humar_bench.data.export import export_people
from humar_bench.data.people import ProceduralPeople
from humar_bench.data.refhuman import RefHuman
from humar_bench.data.show import CELL, GAP, contact_sheet, examples_of
from humar_bench.errors import UsageError


@pytest.fixture(scope="module")
def right(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("right")
    export_people(folder, {split: ProceduralPeople(split, 1, length=3, size=64) for split in ("train", "val")})
    return folder


@pytest.fixture
def folder(right, tmp_path) -> Path:
    shutil.copytree(right, tmp_path / "people")
    return tmp_path / "people"


def change(folder: Path, entry: int = 1, image: dict | None = None, annotation: dict | None = None, split: str = "train") -> None:
    """Set fields of one entry and of its annotation; a value None takes the field out."""
    path = folder / f"RefHuman_{split}.json"
    content = json.loads(path.read_bytes())
    for row, fields in ((content["images"][entry], image), (content["annotations"][entry], annotation)):
        for name, value in (fields or {}).items():
            row.pop(name) if value is None else row.update({name: value})
    path.write_text(json.dumps(content))


def said(folder: Path) -> list[str]:
    return [str(finding) for finding in FolderCheck(folder)]


@pytest.mark.parametrize("level", [0, 2])
def test_a_folder_that_is_right_has_no_findings(tmp_path, level):
    export_people(tmp_path, {split: ProceduralPeople(split, level, length=8, size=(96, 128)) for split in ("train", "val")})
    check = FolderCheck(tmp_path)
    assert list(check) == []
    assert check.summary == "8 entries of train and 8 entries of val; 0 wrong, 0 left out, 0 odd." and not check.is_wrong


FAR = [[[x, 400] for x in range(12)]] * 5
CORNER = [[[0, 0]] * 12] * 5
WRONG = [
    ({"caption": None}, {}, "train 1: odd: it has no caption."),
    ({"caption": "  "}, {}, "train 1: odd: its caption is '  ', not a sentence."),
    ({"height": 65}, {}, "train 1: odd: its picture train_000001.png is 64 x 64 pixels and it says 65 x 64."),
    ({"file_name": "away.png"}, {}, r"train 1: wrong: the picture .*away.png cannot be read: .*No such file"),
    ({"id": 0}, {}, "train 0: wrong: the id occurs 2 times; each entry needs its own."),
    ({}, {"image_id": 7}, "train 1: left out: it has 0 annotations; it should have one."),
    ({}, {"image_id": 7}, "train 7: odd: annotation 2 belongs to it, and it is not there."),
    ({}, {"image_id": 0}, "train 0: odd: it has 2 annotations; it should have one."),
    ({}, {"id": 0}, "train: odd: 1 annotations have the id 0; COCO's evaluation needs numbers from 1 on."),
    ({}, {"id": 1}, "train: odd: 2 annotations have the id 1; each needs its own."),
    ({}, {"category_id": 4}, "train 1: odd: category_id is 4; a person is 1."),
    ({}, {"iscrowd": 1}, r"train 1: left out: it is a crowd \(iscrowd\)."),
    ({}, {"bbox": [1, 2, 3]}, "train 1: wrong: bbox has 3 numbers; it needs 4."),
    ({}, {"bbox": None}, "train 1: wrong: bbox is missing."),
    ({}, {"bbox": [64, 2, 3, 4]}, r"train 1: left out: its box \[64, 2, 3, 4\] has nothing inside the picture."),
    ({}, {"bbox": [1, 2, 0, 4]}, r"train 1: left out: its box \[1, 2, 0, 4\] has nothing inside the picture."),
    ({}, {"bbox": [1, 2, 90, 50]}, r"train 1: odd: its box \[1, 2, 90, 50\] reaches beyond the picture of 64 x 64."),
    ({}, {"area": "large"}, "train 1: wrong: area is 'large'; it must be a number."),
    ({}, {"area": 1e6}, r"train 1: odd: area 1e\+06 does not fit a box of"),
    ({}, {"keypoints": [1, 2, 2] * 16}, "train 1: wrong: keypoints has 48 numbers; it needs 51."),
    ({}, {"keypoints": [1, 2, float("nan")] * 17}, "train 1: wrong: keypoints has numbers that are not finite or beyond"),
    ({}, {"keypoints": [1, 1e300, 2] * 17}, "train 1: wrong: keypoints has numbers that are not finite or beyond 1,000,000,000."),
    ({}, {"keypoints": 5}, "train 1: wrong: keypoints has 1 numbers; it needs 51."),
    ({}, {"keypoints": [1, 2, "a"] * 17}, "train 1: wrong: keypoints is not a list of numbers of one shape."),
    ({}, {"keypoints": {"a": 1}}, "train 1: wrong: keypoints is not a list of numbers of one shape."),
    ({}, {"bbox": ["1", "2", "3", "4"]}, "train 1: wrong: bbox is not a list of numbers of one shape."),
    ({"caption": 5}, {}, "train 1: wrong: its caption is 5, not a sentence."),
    ({"caption": "\ud800"}, {}, "train 1: wrong: its caption is '.ud800'; it must be at most 10,000 letters of Unicode."),
    ({"caption": "a" * 10_001}, {}, "train 1: wrong: its caption is 'a+"),
    ({"file_name": "a\0b.png"}, {}, "train 1: wrong: the picture .* cannot be read: embedded null byte."),
    ({"file_name": "away.png", "height": 10**9, "width": 10**9}, {}, "train 1: wrong: the picture .*away.png cannot be read"),
    ({}, {"segmentation": [[-1e9, 0, 1e9, 0, 1e9, 1e9]]}, "train 1: wrong: its segmentation cannot be decoded: a polygon lies more than"),
    ({}, {"segmentation": [[0, 0, 60, 60] * 9_000]}, "train 1: wrong: its segmentation cannot be decoded: a polygon lies more than"),
    ({}, {"segmentation": {"size": [10**6, 10**6], "counts": [10**12]}}, "train 1: wrong: its segmentation cannot be decoded: it is of"),
    ({}, {"segmentation": {"size": [64, 64], "counts": "zz"}}, "train 1: wrong: its segmentation cannot be decoded: "),
    ({}, {"keypoints": [1, 2, 0] * 17, "num_keypoints": 0}, "train 1: left out: no keypoint is labelled."),
    ({}, {"keypoints": [1, 2, 3] * 17, "num_keypoints": 17}, r"train 1: odd: visibilities are \[3\]; they must be 0, 1 or 2."),
    ({}, {"num_keypoints": 3}, "train 1: odd: num_keypoints is 3 and 17 are labelled."),
    ({}, {"keypoints": [1, 2, 2] * 16 + [90, 2, 2]}, "train 1: odd: labelled keypoints lie outside the picture: right_ankle."),
    ({}, {"segmentation": []}, "train 1: odd: its segmentation is empty: there is no mask."),
    ({}, {"segmentation": [["a"]]}, "train 1: wrong: its segmentation cannot be decoded: "),
    ({}, {"segmentation": [[1, 2, 3, 4]]}, "train 1: wrong: its segmentation cannot be decoded: a polygon needs"),
    ({}, {"segmentation": {"size": [64, 64]}}, "train 1: wrong: its segmentation cannot be decoded: it is neither"),
    ({}, {"segmentation": 3}, "train 1: wrong: its segmentation cannot be decoded: "),
    ({}, {"scribble": None}, "train 1: wrong: scribble is missing."),
    ({}, {"scribble": [[[1, 2]], [[1, 2], [3, 4]]]}, "train 1: wrong: scribble is not a list of numbers of one shape."),
    ({}, {"scribble": [[1, 2]] * 7}, "train 1: wrong: scribble has 14 numbers; it needs 120."),
    ({}, {"scribble": FAR}, "train 1: odd: 60 of 60 scribble points lie outside the picture."),
    ({}, {"scribble": CORNER}, "train 1: odd: 60 of 60 scribble points lie outside the mask."),
]


@pytest.mark.parametrize(("image", "annotation", "sentence"), WRONG, ids=[sentence[:60] for *_, sentence in WRONG])
def test_every_mistake_is_found_where_it_is(folder, image, annotation, sentence):
    change(folder, image=image, annotation=annotation)
    found = said(folder)
    assert any(re.match(sentence, line) for line in found), found
    assert all(not line.startswith("val") for line in found)


def test_what_is_wrong_is_exactly_what_cannot_be_read(right, folder):
    for index, (image, annotation, _) in enumerate(WRONG):
        shutil.copy(right / "RefHuman_train.json", folder)
        change(folder, image=image, annotation=annotation)
        check = FolderCheck(folder)
        wrong = [finding for finding in check if finding.kind == "wrong"]
        assert check.is_wrong == bool(wrong)
        if "occurs" in str(wrong):  # read, but not what was meant
            continue
        try:
            reader = RefHuman(folder, "train")
            [reader[each] for each in range(len(reader))]
            failed = False
        except UsageError:
            failed = True
        assert failed == bool(wrong), (index, WRONG[index])


def test_files_that_are_missing_or_broken_are_findings(folder):
    (folder / "RefHuman_val.json").unlink()
    (folder / "RefHuman_train.json").write_text("{")
    check = FolderCheck(folder)
    found = [str(finding) for finding in check]
    assert "is not JSON" in found[0] and found[1] == "val: odd: there is no RefHuman_val.json."
    assert check.is_wrong and check.summary == "no entry; 1 wrong, 0 left out, 1 odd."
    (folder / "RefHuman_train.json").unlink()
    with pytest.raises(UsageError, match="holds neither RefHuman_train.json nor RefHuman_val.json; name the folder that holds them."):
        FolderCheck(folder)


# The contact sheet


def test_the_contact_sheet_shows_pictures_and_on_demand_their_labels():
    examples = examples_of("procedural:0", "val", seed=0, first=2, number=5, size=(64, 64))
    assert [example.image_id for example in examples] == [2, 3, 4, 5, 6]
    plain, labelled = (np.array(contact_sheet(examples, 3, labels=labels)) for labels in (False, True))
    assert plain.shape == labelled.shape and plain.shape[1] == 3 * (CELL + GAP) + GAP
    first = plain[GAP : GAP + CELL, GAP : GAP + CELL]
    reference = np.array(Image.fromarray(examples[0].picture).resize((CELL, CELL), Image.Resampling.BICUBIC))
    assert np.array_equal(first, reference)
    x, y = ((examples[0].keypoints[0, 0, :2] + 0.5) * CELL / 64 + GAP).round().astype(int)
    assert tuple(labelled[y, x]) == (240, 228, 66)  # the nose
    changed = (plain != labelled).any(-1)
    assert changed.mean() > 0.01 and not changed[:GAP].any()
    below = plain[GAP + CELL : GAP + CELL + 20, GAP : GAP + CELL]
    assert (below < 128).any()  # the sentence


def test_every_level_is_shown_where_none_is_named_and_folders_too(right):
    assert len(examples_of(None, "train", seed=1, first=0, number=2, size=(64, 64))) == 6
    assert len(examples_of(str(right), "val", seed=0, first=1, number=9, size=(64, 64))) == 2
    with pytest.raises(UsageError, match="has 3 pictures in val; the first asked for is number 3."):
        examples_of(str(right), "val", seed=0, first=3, number=9, size=(64, 64))
    with pytest.raises(UsageError, match="the first is 0 and at least one is needed"):
        examples_of(None, "val", seed=0, first=0, number=0, size=(64, 64))


