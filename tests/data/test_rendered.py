"""People that are drawn once are the people that are drawn each time."""

from __future__ import annotations

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
    monkeypatch.setattr(ProceduralPeople, "__getitem__", lambda *_: pytest.fail("drawn again"))
    shorter = rendered(ProceduralPeople("train", 0, 5, 4, 64), tmp_path)
    assert len(shorter) == 4 and len(rendered(people, tmp_path)) == 6
    with pytest.raises(IndexError):
        shorter[4]


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
