"""Targets of one picture and of a padded batch: what they refuse, and that padding adds nobody."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from humar_bench.data.targets import Target, TargetBatch, batch_size
from humar_bench.errors import UsageError


def target(people: int, size: tuple[int, int] = (20, 30), keypoints: int = 4, **other) -> dict:
    """A target with upstream's keys; every number differs."""
    made = dict(
        labels=torch.ones(people, dtype=torch.long),
        boxes=torch.rand(people, 4),
        keypoints=torch.cat([torch.rand(people, 2 * keypoints), torch.ones(people, keypoints)], -1),
        area=torch.rand(people),
        masks=torch.ones(people, *size, dtype=torch.bool),
        size=torch.tensor(size),
        image_id=torch.tensor([7]),
    )
    return made | other


def test_a_mapping_with_upstream_keys_is_read_and_unknown_keys_are_left_out():
    read = Target.of(target(2, orig_size=np.array([40, 60]), valid=True))
    assert (read.size, read.orig_size, read.image_id, read.num_keypoints) == ((20, 30), (40, 60), 7, 4)
    assert Target.of(read) is read


def test_shapes_that_do_not_fit_are_refused_by_name():
    with pytest.raises(UsageError, match=r"boxes of a target with 2 labels has shape \(1, 4\); it must be \(2, 4\)"):
        Target.of(target(2) | {"boxes": torch.rand(1, 4)})
    with pytest.raises(UsageError, match="masks of a target"):
        Target.of(target(2, size=(20, 30)) | {"size": (30, 20)})


def test_a_batch_pads_people_and_masks_and_keeps_every_value():
    rows = [target(1, (20, 30)), target(0, (17, 9)), target(3, (33, 16))]
    batch = TargetBatch.collate(rows)
    assert batch.counts == (1, 0, 3) and batch.num_people == 4 and batch.top_label == 1
    assert batch.points.shape == (3, 3, 4, 2) and batch.visible.shape == (3, 3, 4)
    assert batch.masks.shape == (4, 48, 32) and batch.masks.sum() == 20 * 30 + 3 * 33 * 16
    assert torch.equal(batch.boxes[2], rows[2]["boxes"]) and torch.equal(batch.boxes[0, :1], rows[0]["boxes"])
    assert torch.equal(batch.points[2, 1, 3], rows[2]["keypoints"][1, 6:8])
    assert not batch.visible[0, 1:].any() and (batch.area[1] == 1).all() and (batch.labels[1] == 0).all()


def test_a_batch_of_empty_pictures_and_one_without_masks():
    empty = TargetBatch.collate([target(0), target(0)])
    assert empty.boxes.shape == (2, 0, 4) and empty.points.shape == (2, 0, 4, 2) and empty.masks.shape == (0, 32, 32)
    assert empty.top_label == 0 and empty.num_people == 0
    assert TargetBatch.collate([target(1), target(1) | {"masks": None}]).masks is None
    assert TargetBatch.collate([target(1), target(0) | {"masks": None}]).masks.shape == (1, 32, 32)


def test_a_batch_of_nothing_or_of_different_keypoints_is_refused():
    with pytest.raises(UsageError, match="has no targets"):
        TargetBatch.collate([])
    with pytest.raises(UsageError, match=r"have \[4, 5\] keypoints"):
        TargetBatch.collate([target(1), target(1, keypoints=5)])


def test_moving_keeps_what_is_on_the_host():
    batch = TargetBatch.collate([target(2) | {"masks": None}]).to("meta")
    assert batch.boxes.device.type == "meta" and batch.counts == (2,) and batch.masks is None
    assert Target.of(target(2)).to("meta").keypoints.device.type == "meta"


def test_batch_size_rounds_up_to_multiples():
    assert batch_size([(20, 33), (48, 16)]) == (48, 48)
