"""Which query answers for which person: the assignment of least total cost, of all layers and pictures at once.

Source: Carion et al., "End-to-End Object Detection with Transformers" (2020), with GroupPose's keypoint costs and HuMAR's box, GIoU and
visibility costs. What HuMAR computes picture by picture and pair by pair is one tensor per cost here; the host waits for the device
once, for the costs of all layers together.

Shapes: D decoder layers, B pictures, Q queries, M the most people of a picture, m those of one, K keypoints, P pairs of a layer: the
sum of min(Q, m) over pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from humar_bench.data.targets import TargetBatch
from humar_bench.errors import MeasurementError
from humar_bench.training.options import LossArgs
from humar_bench.training.similarity import corners, giou, oks

LOG_EPSILON = 1e-8
GAMMA = 2  # exponent of the focal cost and of the focal losses
LOGGED = ("class", "bbox", "giou", "keypoints", "oks")


class Predictions(NamedTuple):
    """What is matched and trained, of D layers. Proposals have neither boxes nor visibilities."""

    logits: Tensor  # [D, B, Q, classes]
    points: Tensor  # [D, B, Q, K, 2]
    boxes: Tensor | None = None  # [D, B, Q, 4] (cx, cy, w, h)
    visibility: Tensor | None = None  # [D, B, Q, K] logits

    def at(self, rows: Tensor) -> Predictions:
        """Rows [D, P] of the D * B * Q queries -> each tensor as [D, P, ...]."""
        return Predictions(*(None if value is None else rows_of(value, rows, 3) for value in self))


class People(NamedTuple):
    """Whom they are matched with: the tensors of a `TargetBatch`."""

    labels: Tensor  # [B, M]
    boxes: Tensor  # [B, M, 4]
    points: Tensor  # [B, M, K, 2]
    visible: Tensor  # [B, M, K]
    area: Tensor  # [B, M]

    @classmethod
    def of(cls, targets: TargetBatch) -> People:
        return cls(targets.labels, targets.boxes, targets.points, targets.visible, targets.area)

    def at(self, rows: Tensor) -> People:
        """Rows [D, P] of the B * M people -> each tensor as [D, P, ...]."""
        return People(*(rows_of(value, rows, 2) for value in self))


def rows_of(values: Tensor, rows: Tensor, leading: int) -> Tensor:
    """`rows` [D, P] of values whose first `leading` dimensions are counted as one -> [D, P, ...]."""
    return values.flatten(0, leading - 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)


@dataclass(frozen=True)
class Match:
    """The pairs of D layers; a layer's are ordered by picture, then by query. Tensors are on the device of the costs."""

    picture: Tensor  # [P]
    query: Tensor  # [D, P]
    predictions: Tensor  # [D, P] rows of the D * B * Q queries
    people: Tensor  # [D, P] rows of the B * M people
    masks: Tensor  # [D, P] rows of the n masks
    logged: dict[str, Tensor]  # set_cost_NAME [D]: unweighted, mean over a picture's pairs, then over the pictures with people
    on_host: np.ndarray  # [2, D, P] query and person of the picture
    pairs: tuple[int, ...]  # pairs of each picture

    def of(self, layer: int, picture: int) -> tuple[np.ndarray, np.ndarray]:
        """(queries, people) of one picture."""
        first = sum(self.pairs[:picture])
        query, person = self.on_host[:, layer, first : first + self.pairs[picture]]
        return query, person


def matching_costs(predictions: Predictions, people: People, args: LossArgs) -> dict[str, Tensor]:
    """Unweighted costs of every query with every person of its picture, by name, each [D, B, Q, M]; padded people mean nothing."""
    probability = predictions.logits.sigmoid()
    positive = args.focal_alpha * (1 - probability) ** GAMMA * -(probability + LOG_EPSILON).log()
    negative = (1 - args.focal_alpha) * probability**GAMMA * -(1 - probability + LOG_EPSILON).log()
    label = people.labels.unsqueeze(-2).expand(*probability.shape[:-1], -1)
    points, truth = predictions.points.unsqueeze(-3), people.points.unsqueeze(-4)  # [D, B, Q, 1, K, 2], [B, 1, M, K, 2]
    visible = people.visible.unsqueeze(-3)
    costs = {
        "class": (positive - negative).gather(-1, label),
        "keypoints": ((points - truth).abs().sum(-1) * visible).sum(-1),
        "oks": 1 - oks(points, truth, visible, people.area.unsqueeze(-2)),
    }
    if predictions.boxes is not None:
        boxes, box_truth = predictions.boxes.unsqueeze(-2), people.boxes.unsqueeze(-3)
        costs["bbox"] = (boxes - box_truth).abs().sum(-1)
        costs["giou"] = -giou(corners(boxes), corners(box_truth))
    if predictions.visibility is not None:  # BCE(x, v) = softplus(x) - x v
        logits = predictions.visibility
        costs["keypoints_visi"] = F.softplus(logits).sum(-1, keepdim=True) - logits @ people.visible.mT
    return costs


def weighted_cost(costs: dict[str, Tensor], args: LossArgs) -> Tensor:
    """The weighted sum of the costs [D, B, Q, M]."""
    return sum(getattr(args, f"set_cost_{name}") * cost for name, cost in costs.items())


@torch.no_grad()
def match(stages: Sequence[Predictions], targets: TargetBatch, args: LossArgs) -> list[Match]:
    """Match each stage's predictions, with a single copy from the device to the host.

    Raises MeasurementError where a cost is not finite: the model has diverged.
    """
    people = People.of(targets)
    totals = [weighted_cost(matching_costs(stage, people, args), args) for stage in stages]
    flat = torch.cat([total.flatten() for total in totals]).cpu().numpy()
    ends = np.cumsum([total.numel() for total in totals])
    parts = np.split(flat, ends[:-1])
    assigned = [_assign(part.reshape(total.shape), targets.counts) for part, total in zip(parts, totals, strict=True)]
    return [_match(pairs, stage, targets, args) for pairs, stage in zip(assigned, stages, strict=True)]


def _assign(cost: np.ndarray, counts: tuple[int, ...]) -> np.ndarray:
    """Cost [D, B, Q, M] -> queries and people [2, D, P] of the cheapest assignment of every layer and picture."""
    layers = []
    for layer, of_layer in enumerate(cost):
        found = [np.zeros((2, 0), dtype=np.int64)]
        for picture, people in enumerate(counts):
            square = of_layer[picture, :, :people]
            if not np.isfinite(square).all():
                raise MeasurementError(
                    f"picture {picture} of the batch has a matching cost that is not finite in layer {layer}: the predictions or the "
                    "targets are not finite; lower the learning rate, or go on from an earlier checkpoint."
                )
            found.append(np.stack(linear_sum_assignment(square)))
        layers.append(np.concatenate(found, axis=1))
    return np.stack(layers, axis=1)


def _match(pairs: np.ndarray, stage: Predictions, targets: TargetBatch, args: LossArgs) -> Match:
    """Put the pairs [2, D, P] on the device of the predictions, in one copy that nothing waits for."""
    layers, pictures, queries, _ = stage.logits.shape
    most = targets.labels.shape[1]
    of_picture = np.array([min(queries, people) for people in targets.counts], dtype=np.int64)
    picture = np.repeat(np.arange(pictures), of_picture)
    query, person = pairs
    people = picture * most + person
    in_batch = np.repeat(np.cumsum((0, *targets.counts))[:-1], of_picture) + person
    if args.costs_logged_as_published:  # their columns count the people of the whole batch, ours those of the picture
        places = np.concatenate([np.arange(number) + row * most for row, number in enumerate(targets.counts)])
        looked_at = places[person]
    else:
        looked_at = people
    predictions = (np.arange(layers)[:, None] * pictures + picture) * queries + query
    rows = np.concatenate([query, predictions, people, in_batch, looked_at, picture[None], of_picture[picture][None]])
    rows = torch.from_numpy(rows)
    rows = (rows.pin_memory() if stage.logits.is_cuda else rows).to(stage.logits.device, non_blocking=True)
    *tables, picture, share = (*rows[:-2].unflatten(0, (5, layers)), *rows[-2:])
    query, predictions, people, in_batch, looked_at = tables

    chosen = Predictions(*(None if value is None else value.unsqueeze(2) for value in stage.at(predictions)))  # [D, P, 1, ...]
    costs = matching_costs(chosen, People(*(value.unsqueeze(2) for value in People.of(targets).at(looked_at))), args)
    weight = 1 / (share * max(np.count_nonzero(of_picture), 1))
    logged = {f"set_cost_{name}": (costs[name].flatten(1) * weight).sum(-1) for name in LOGGED if name in costs}
    return Match(picture, query, predictions, people, in_batch, logged, pairs, tuple(of_picture.tolist()))
