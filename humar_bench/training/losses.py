"""The losses of a referring-pose model, of all layers, pictures and people at once.

Source: UniPHD's criterion as HuMAR trains with it (after GroupPose and DETR). Deviations: proposals are trained (`LossArgs.interm`), which
no public code of theirs does; a batch without people has losses of 0 that reach every parameter.

Shapes: D decoder layers, B pictures, Q queries, K keypoints, n people of the batch, P pairs of a layer, H, W the batch's pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from humar_bench.data.targets import Target, TargetBatch
from humar_bench.errors import UsageError
from humar_bench.training.matcher import GAMMA, Match, People, Predictions, match
from humar_bench.training.options import LossArgs
from humar_bench.training.similarity import corners, giou, keypoint_sigmas, oks

WEIGHTS = {  # loss -> the option that weighs it
    "loss_ce": "cls_loss_coef",
    "loss_bbox": "bbox_loss_coef",
    "loss_giou": "giou_loss_coef",
    "loss_keypoints": "keypoints_loss_coef",
    "loss_oks": "oks_loss_coef",
    "loss_keypoints_visi": "keypoints_visi_loss_coef",
    "loss_mask": "mask_loss_coef",
    "loss_dice": "dice_loss_coef",
}


@dataclass(frozen=True)
class Losses:
    """`total` is what is trained; `named` the unweighted losses and what is only logged, all scalars on the device."""

    total: Tensor
    named: dict[str, Tensor]


@dataclass(frozen=True)
class Matches:
    """Who answers for whom in the decoder layers and, where they are trained, among the proposals."""

    layers: Match
    proposals: Match | None


@dataclass(frozen=True)
class Criterion:
    """Matches a model's outputs to people and adds up the losses."""

    args: LossArgs = LossArgs()

    def match(self, outputs: Any, targets: TargetBatch | Sequence[Target | Mapping[str, Any]]) -> Matches:
        """Match outputs to people: the one place where the host waits for the device. See `__call__` for both arguments."""
        with _full_precision(outputs):
            stages = self._stages(outputs)
            return _match(stages, self._batch(stages[0], targets), self.args)

    def __call__(
        self,
        outputs: Any,
        targets: TargetBatch | Sequence[Target | Mapping[str, Any]],
        *,
        matches: Matches | None = None,
        masks: Tensor | None = None,
    ) -> Losses:
        """Losses of one batch.

        outputs: a mapping, or an object with attributes, of `pred_logits` [B, Q, classes], `pred_boxes` [B, Q, 4], `pred_keypoints`
        [B, Q, 3K] (the first 2K are read), `pred_keypoints_visi` [B, Q, K] (left out where it is no tensor), `pred_masks` [B, Q, H, W],
        `aux_outputs` (a list of the same without masks) and, with `interm`, `interm_outputs` (`pred_logits` and `pred_keypoints`
        [B, Q, 2K or 3K] of the proposals).
        `matches` from `match`, for a model that makes the masks of matched queries only: `masks` [P, H, W], in the order of
        `matches.layers`, then stands for `pred_masks`.

        The names are upstream's: `loss_NAME`, `set_cost_NAME` and `class_error` of the last layer, `NAME_i` of layer i, `NAME_interm`.
        Raises UsageError where outputs and targets do not fit, MeasurementError where a matching cost is not finite.
        """
        with _full_precision(outputs):
            stages = self._stages(outputs)
            batch = self._batch(stages[0], targets)
            matches = matches or _match(stages, batch, self.args)
            count = _people(batch, stages[0].logits.device)
            losses, pairs = self._layer_losses(stages[0], batch, matches.layers, count)
            named = _by_layer(losses | matches.layers.logged)
            named["class_error"] = _class_error(pairs)
            total = self._weighted(losses)
            if self.args.masks:
                of_masks = self._mask_losses(outputs, masks, batch, matches.layers, count)
                named |= of_masks
                total = total + self._weighted(of_masks)
            if matches.proposals is not None:
                losses, _ = self._layer_losses(stages[1], batch, matches.proposals, count)
                named |= {f"{name}_interm": value.squeeze(0) for name, value in (losses | matches.proposals.logged).items()}
                total = total + self.args.interm_loss_coef * self._weighted(losses)
        return Losses(total, named)

    def weight_of(self, name: str) -> float:
        """The weight of a named loss in the total; 0 for what is only logged."""
        for loss, option in WEIGHTS.items():
            ending = name.removeprefix(loss)
            if name.startswith(loss) and (not ending or ending == "_interm" or ending[1:].isdigit()):
                return getattr(self.args, option) * (self.args.interm_loss_coef if ending == "_interm" else 1.0)
        return 0.0

    def _weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        return sum(getattr(self.args, WEIGHTS[name]) * value.sum() for name, value in losses.items())

    def _stages(self, outputs: Any) -> list[Predictions]:
        """The decoder's layers, the last one last, and the proposals if they are trained."""
        layers = [*(_get(outputs, "aux_outputs") or ()), outputs]
        stages = [_stack(layers, boxes=True)]
        if self.args.interm:
            proposals = _get(outputs, "interm_outputs")
            if proposals is None:
                raise UsageError(
                    "the outputs have no interm_outputs to train the proposals with; let the model give them, or set interm false."
                )
            stages.append(_stack([proposals], boxes=False, keypoints=stages[0].points.shape[-2]))
        return stages

    def _batch(self, stage: Predictions, targets: TargetBatch | Sequence[Target | Mapping[str, Any]]) -> TargetBatch:
        """The targets on the device of the outputs. Raises UsageError where the two do not fit."""
        batch = targets if isinstance(targets, TargetBatch) else TargetBatch.collate(targets)
        _, pictures, _, classes = stage.logits.shape
        keypoints = stage.points.shape[-2]
        keypoint_sigmas(keypoints)
        for word, given, wanted in (("pictures", pictures, len(batch.counts)), ("keypoints", keypoints, batch.num_keypoints)):
            if given != wanted:
                raise UsageError(f"the outputs have {given} {word} and the targets {wanted}; they must be of the same batch.")
        if batch.top_label >= classes:
            raise UsageError(
                f"a person has label {batch.top_label}, but num_classes is {classes}; it must be at least {batch.top_label + 1}."
            )
        return batch.to(stage.logits.device, non_blocking=True)

    def _layer_losses(
        self, stage: Predictions, targets: TargetBatch, pairs: Match, count: Tensor
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Unweighted losses [D] of every layer, and the pairs' logits [D, P, classes] and labels [D, P]."""
        chosen, whom = stage.at(pairs.predictions), People.of(targets).at(pairs.people)
        positive = (pairs.predictions * stage.logits.shape[-1] + whom.labels).flatten()
        wanted = torch.zeros_like(stage.logits).flatten().index_fill(0, positive, 1.0).view_as(stage.logits)
        missed = (chosen.points - whom.points).abs().sum(-1) * whom.visible
        losses = {
            "loss_ce": _focal(stage.logits, wanted, self.args.focal_alpha).sum((1, 2, 3)) / count,
            "loss_keypoints": missed.sum((1, 2)) / count,
            "loss_oks": (1 - oks(chosen.points, whom.points, whom.visible, whom.area)).sum(1) / count,
        }
        if chosen.boxes is not None:
            losses["loss_bbox"] = (chosen.boxes - whom.boxes).abs().sum((1, 2)) / count
            losses["loss_giou"] = (1 - giou(corners(chosen.boxes), corners(whom.boxes))).sum(1) / count
        if chosen.visibility is not None:
            wrong = F.binary_cross_entropy_with_logits(chosen.visibility, whom.visible, reduction="none").mean(-1).sum(1)
            once = wrong / max(pairs.people.shape[1], 1) if self.args.visibility_divided_twice else wrong
            losses["loss_keypoints_visi"] = once / count
        return losses, (chosen.logits, whom.labels)

    def _mask_losses(self, outputs: Any, masks: Tensor | None, targets: TargetBatch, pairs: Match, count: Tensor) -> dict[str, Tensor]:
        """Focal loss and dice loss of the last layer's matched masks. Raises UsageError where outputs or targets have no masks."""
        if masks is None:
            masks = _get(outputs, "pred_masks")
            if isinstance(masks, Tensor):
                masks = masks[pairs.picture, pairs.query[-1]]
        if masks is None or targets.masks is None:
            raise UsageError(f"the {'outputs' if masks is None else 'targets'} have no masks to train with; set masks false.")
        logits = _float(masks)
        wanted = targets.masks.index_select(0, pairs.masks[-1]).to(logits.dtype)
        if wanted.shape[-2:] != logits.shape[-2:]:
            wanted = F.interpolate(wanted[:, None], size=logits.shape[-2:], mode="nearest")[:, 0]
        logits, wanted = logits.flatten(1), wanted.flatten(1)
        share = logits.sigmoid()
        dice = 1 - (2 * (share * wanted).sum(1) + 1) / (share.sum(1) + wanted.sum(1) + 1)
        return {"loss_mask": _focal(logits, wanted, self.args.focal_alpha).mean(1).sum() / count, "loss_dice": dice.sum() / count}


def _match(stages: list[Predictions], targets: TargetBatch, args: LossArgs) -> Matches:
    layers, *proposals = match(stages, targets, args)
    return Matches(layers, proposals[0] if proposals else None)


def _get(outputs: Any, key: str) -> Any:
    return outputs.get(key) if isinstance(outputs, Mapping) else getattr(outputs, key, None)


def _float(x: Tensor) -> Tensor:
    """At least float32: losses are not computed in half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _full_precision(outputs: Any) -> torch.autocast:
    return torch.autocast(_get(outputs, "pred_logits").device.type, enabled=False)


def _stack(layers: Sequence[Any], *, boxes: bool, keypoints: int | None = None) -> Predictions:
    """The outputs of D layers as one tensor each; `keypoints` K where the width of `pred_keypoints` does not say it (2K or 3K)."""

    def stacked(key: str) -> Tensor:
        return torch.stack([_float(_get(layer, key)) for layer in layers])

    points = stacked("pred_keypoints")
    keypoints = keypoints or points.shape[-1] // 3
    has_visibility = boxes and isinstance(_get(layers[-1], "pred_keypoints_visi"), Tensor)
    return Predictions(
        logits=stacked("pred_logits"),
        points=points[..., : 2 * keypoints].unflatten(-1, (keypoints, 2)),
        boxes=stacked("pred_boxes") if boxes else None,
        visibility=stacked("pred_keypoints_visi") if has_visibility else None,
    )


def _people(targets: TargetBatch, device: torch.device) -> Tensor:
    """n as a scalar on the device: the mean over processes, at least 1."""
    count = torch.full((), float(targets.num_people), device=device)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(count)
        count = count / distributed.get_world_size()
    return count.clamp(min=1)


def _focal(logits: Tensor, wanted: Tensor, alpha: float) -> Tensor:
    """Focal loss of every element (Lin et al. 2017): alpha_t (1 - p_t)^2 BCE, `wanted` 0 or 1."""
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    missed = probability + wanted - 2 * probability * wanted  # 1 - p_t
    return (alpha * wanted + (1 - alpha) * (1 - wanted)) * missed**GAMMA * entropy


def _class_error(pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Percent of the last layer's pairs whose strongest class is not the person's; 100 without pairs."""
    logits, label = pairs[0][-1].detach(), pairs[1][-1]
    return 100 - 100 * (logits.argmax(-1) == label).sum() / max(len(label), 1)


def _by_layer(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """[D] of every loss -> scalars by upstream's names: no ending for the last layer, `_i` for the others."""
    named = {name: values.unbind(0) for name, values in losses.items()}
    last = {name: values[-1] for name, values in named.items()}
    return last | {f"{name}_{i}": value for name, values in named.items() for i, value in enumerate(values[:-1])}
