"""What a student also learns from a trained teacher: its keypoints, its class scores and how alike its tokens are.

Both are matched to the same people; the student's query for a person imitates the teacher's query for it. Tokens are compared by the
cosines among the N tokens of an instance, so that teacher and student may be of any width and architecture (similarity-preserving
distillation, Tung and Mori 2019, within one instance).

Shapes: D decoder layers, B pictures, Q queries, K keypoints, N = K + 1 tokens of an instance, C width, P matched pairs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from humar_bench.errors import UsageError
from humar_bench.training.batches import Batch, tokens_of
from humar_bench.training.losses import Criterion
from humar_bench.training.matcher import Match
from humar_bench.training.train_args import TrainArgs
from humar_bench.uniphd import Captions, Points, Scribbles, UniPHD

WEIGHTS = {"loss_teacher_keypoints": "teacher_keypoints", "loss_teacher_class": "teacher_class", "loss_teacher_tokens": "teacher_tokens"}


class LastTokens:
    """Keeps the tokens [B, Q, N, C] of the last decoder layer of each forward of a whole model."""

    def __init__(self, model: UniPHD) -> None:
        self.tokens: Tensor | None = None
        model.transformer.register_forward_hook(self._keep)

    def _keep(self, _: Any, inputs: Any, outputs: tuple) -> None:
        self.tokens = outputs[0][-1]


class Distillation:
    """A frozen teacher and the student's losses against it. Raises UsageError where the two cannot be compared."""

    def __init__(self, options: TrainArgs, teacher_options: TrainArgs, teacher: UniPHD, student: UniPHD, criterion: Criterion) -> None:
        for part, name in (("model", "num_body_points"), ("model", "num_classes"), ("whole", "text_encoder_type")):
            own, theirs = (getattr(getattr(each, part), name) for each in (options, teacher_options))
            if own != theirs:
                raise UsageError(f"{name} is {own} and {theirs} in the teacher {options.teacher}; they must be the same.")
        if missing := sorted(options.whole.train_trigger - teacher_options.whole.train_trigger):
            raise UsageError(f"the teacher {options.teacher} was not trained with the prompt {missing[0]}; leave it out of train_trigger.")
        tokens_of(teacher_options)
        self.options, self.criterion = options, criterion
        self.teacher = teacher.eval().requires_grad_(False)
        self._student, self._teacher = LastTokens(student), LastTokens(teacher)

    def __call__(self, outputs: Any, pairs: Match, batch: Batch, prompt: Captions | Points | Scribbles) -> dict[str, Tensor]:
        """Unweighted losses of the student's `outputs`, whose `pairs` match them to the batch's people."""
        with torch.no_grad():
            theirs = self.teacher(batch.images, batch.padding, prompt, batch.sizes, masks="none")
            known = self.criterion.match(theirs, batch.targets).layers
        theirs_of = _rows(known, -1)
        layers = [*outputs.aux_outputs, outputs]
        count = max(batch.targets.num_people, 1)
        visible = batch.targets.visible.flatten(0, 1)[_in_order(known, -1)[1]]  # [P, K]
        points = _points(theirs.pred_keypoints[theirs_of])
        scores = theirs.pred_logits[theirs_of].sigmoid()
        keypoints = of_class = points.new_zeros(())
        for layer, each in enumerate(layers):
            mine = _rows(pairs, layer)
            keypoints = keypoints + ((_points(each.pred_keypoints[mine]) - points).abs().sum(-1) * visible).sum() / count
            logits = each.pred_logits[mine].float()
            of_class = of_class + F.binary_cross_entropy_with_logits(logits, scores.float(), reduction="sum") / count
        own, wanted = _cosines(self._student.tokens[_rows(pairs, -1)]), _cosines(self._teacher.tokens[theirs_of])
        tokens = (own - wanted).square().mean((1, 2)).sum() / count
        return dict(zip(WEIGHTS, (keypoints, of_class, tokens), strict=True))

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        return sum(getattr(self.options, WEIGHTS[name]) * value for name, value in losses.items())


def _in_order(pairs: Match, layer: int) -> tuple[Tensor, Tensor]:
    """The places of a layer's pairs ordered by whom they are with, and their rows among the B * M people."""
    people = pairs.people[layer]
    order = people.argsort()
    return order, people[order]


def _rows(pairs: Match, layer: int) -> tuple[Tensor, Tensor]:
    """(picture, query) [P] of a layer's pairs, ordered by whom they are with."""
    order, _ = _in_order(pairs, layer)
    return pairs.picture[order], pairs.query[layer][order]


def _points(keypoints: Tensor) -> Tensor:
    """[P, 3K] -> [P, K, 2]."""
    number = keypoints.shape[-1] // 3
    return keypoints[..., : 2 * number].unflatten(-1, (number, 2)).float()


def _cosines(tokens: Tensor) -> Tensor:
    """Tokens [P, N, C] -> how alike they are to each other [P, N, N]."""
    unit = F.normalize(tokens.float(), dim=-1)
    return unit @ unit.mT
