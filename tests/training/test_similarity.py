"""OKS and GIoU one value at a time, where the small constants decide."""

from __future__ import annotations

import pytest
import torch

from humar_bench.errors import UsageError
from humar_bench.training.similarity import SIGMAS, corners, giou, keypoint_sigmas, oks
from tests.training import by_hand


@pytest.mark.parametrize("keypoints", [3, 14, 17])
def test_every_keypoint_has_its_sigma(keypoints):
    """One visible keypoint at a time, so that no other can hide a wrong one."""
    assert SIGMAS[keypoints] == pytest.approx([tenth / 10 for tenth in by_hand.TENTHS[keypoints]])
    found, truth = torch.rand(2, keypoints, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for k, visible in enumerate(torch.eye(keypoints, dtype=torch.float64)):
        wanted = by_hand.oks(found.flatten().tolist(), [*truth.flatten().tolist(), *visible.tolist()], 0.3)
        assert oks(found, truth, visible, torch.tensor(0.3, dtype=torch.float64)).item() == pytest.approx(wanted, rel=1e-12), k


def test_a_perfect_pose_and_nothing_to_see():
    points, all_seen, area = torch.rand(17, 2, dtype=torch.float64), torch.ones(17, dtype=torch.float64), torch.tensor(0.1)
    assert oks(points, points, all_seen, area).item() == pytest.approx(17 / (17 + 1e-6), rel=1e-12)
    assert oks(points, points, 0 * all_seen, area).item() == pytest.approx(1e-6, rel=1e-12)
    assert oks(points, points + 9, all_seen, area).item() == pytest.approx(1e-6, rel=1e-12)


def test_no_area_gives_no_nan():
    points = torch.rand(3, 2, requires_grad=True)
    for truth in (points.detach(), points.detach() + 0.1):
        oks(points, truth, torch.ones(3), torch.tensor(0.0)).backward()
        assert points.grad.isfinite().all()


def test_keypoints_without_a_convention_are_refused():
    with pytest.raises(UsageError, match="there is no OKS for 16 keypoints; choose one of 3, 14, 17"):
        keypoint_sigmas(16)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_generalised_iou_of_boxes_apart_touching_nested_and_tiny(scale):
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.9, 0.1, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1], [0.55, 0.4, 0.3, 0.2]], dtype=torch.float64)
    boxes = boxes * scale
    found = giou(corners(boxes)[:, None], corners(boxes))
    for i, row in enumerate(found.tolist()):
        assert row == pytest.approx([by_hand.giou(boxes[i].tolist(), other) for other in boxes.tolist()], rel=1e-10), i
