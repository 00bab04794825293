"""People that are drawn once are the people that are drawn each time."""

from __future__ import annotations

import os

import numpy as np
import pytest

from humar_bench.data.people import ProceduralPeople
from humar_bench.data.rendered import RenderedPeople, rendered
from humar_bench.errors import UsageError


def assert_same(one, other) -> None:
    for name, value in vars(one).items():
        found = getattr(other, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == found.dtype and np.array_equal(value, found), name
        else:
            assert value == found, name


def test_what_is_kept_is_what_was_drawn(tmp_path):
    people = ProceduralPeople("train", 2, 5, 6, (64, 80))
    kept = rendered(people, tmp_path)
    assert len(kept) == 6
    for index in range(6):
        assert_same(people[index], kept[index])
        assert_same(people[index], kept[index])  # a reader may write into what it gets
        kept[index].picture[:] = 0
    with pytest.raises(IndexError):
        kept[6]


def test_a_set_is_drawn_once_and_serves_shorter_ones(tmp_path, monkeypatch):
    people = ProceduralPeople("train", 0, 5, 6, 64)
    rendered(people, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["people-v1-train-level0-seed5-64x64-n6"]
    again, draw = [], ProceduralPeople.__getitem__
    monkeypatch.setattr(ProceduralPeople, "__getitem__", lambda self, index: again.append(index) or draw(self, index))
    shorter = rendered(ProceduralPeople("train", 0, 5, 4, 64), tmp_path)
    assert len(shorter) == 4 and len(rendered(people, tmp_path)) == 6
    with pytest.raises(IndexError):
        shorter[4]
    assert again == [0, 1, 2, 3, 0, 2, 3, 5]  # a few, to see that they are the same


@pytest.mark.parametrize("changes", [dict(split="val"), dict(level=1), dict(seed=6), dict(size=96), dict(length=7)])
def test_another_set_is_another_folder(tmp_path, changes):
    given = dict(split="train", level=0, seed=5, length=6, size=64)
    rendered(ProceduralPeople(**given), tmp_path)
    other = ProceduralPeople(**given | changes)
    assert_same(other[5], rendered(other, tmp_path)[5])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_broken_drawing_leaves_nothing_and_a_broken_set_is_refused(tmp_path, monkeypatch):
    people = ProceduralPeople("train", 0, 5, 6, 64)
    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "open_memmap", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UsageError, match="cannot be written: No space left on device"):
            rendered(people, tmp_path)
    assert not list(tmp_path.iterdir())
    folder = rendered(people, tmp_path).folder
    (folder / "area.npy").write_bytes(b"no array")
    with pytest.raises(UsageError, match="holds no drawn people"):
        RenderedPeople(folder)


def saved(folder, name, array) -> None:
    np.save(folder / f"{name}.npy", array)


def huge(folder) -> None:
    """A header of a few bytes that promises terabytes."""
    with open(folder / "pictures.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (2**20, 4096, 4096, 3), "fortran_order": False, "descr": "|u1"})


@pytest.mark.parametrize(("change", "said"), [
    (huge, "mmap length is greater than file size"),
    (lambda folder: saved(folder, "boxes", np.zeros((3, 2, 4), np.float32)), r"boxes.npy holds float32 of shape \(3, 2, 4\)"),
    (lambda folder: saved(folder, "area", np.zeros((3, 1), np.float64)), "area.npy holds float64"),
    (lambda folder: saved(folder, "area", np.zeros((5, 1), np.float32)), "its files are of 3 and 5 pictures"),
    (lambda folder: saved(folder, "masks", np.zeros((3, 9), np.uint8)), "its pictures are 64x64 and a mask has 9 bytes"),
    (lambda folder: saved(folder, "pictures", np.zeros((3, 1, 5000, 3), np.uint8)), "its pictures are 1x5000"),
    (lambda folder: np.save(folder / "area.npy", np.array([[None]] * 3), allow_pickle=True), "area.npy holds object"),
    (lambda folder: (folder / "captions.json").write_text("[" * 200 + "]" * 200), "it is nested more than 100 levels deep"),
    (lambda folder: (folder / "captions.json").write_text('["a", "b", 3]'), "captions.json is no list of sentences"),
    (lambda folder: ((folder / "area.npy").unlink(), os.mkfifo(folder / "area.npy")), "it is a pipe and only regular files are read"),
], ids=range(10))
def test_what_does_not_fit_is_one_sentence(tmp_path, change, said):
    folder = rendered(ProceduralPeople("train", 0, 5, 3, 64), tmp_path).folder
    change(folder)
    with pytest.raises(UsageError, match=f"holds no drawn people \\({said}.*; remove it, and it is drawn anew"):
        RenderedPeople(folder)


def test_a_set_that_is_not_what_its_name_says_is_refused(tmp_path):
    folder = rendered(ProceduralPeople("train", 0, 5, 3, 64), tmp_path).folder
    folder.rename(tmp_path / folder.name.replace("seed5", "seed6"))
    with pytest.raises(UsageError, match="is not what its name says: picture 0 is another; remove it"):
        rendered(ProceduralPeople("train", 0, 6, 3, 64), tmp_path)
