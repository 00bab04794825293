"""Options of training, once: `LossArgs` and `OptimArgs` with upstream's names and values where it has one. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from humar_bench.args import _check_fields, _option
from humar_bench.errors import UsageError


@dataclass(frozen=True)
class LossArgs:
    """Weights of the matching costs and of the losses, and which losses there are. Raises UsageError."""

    set_cost_class: float = _option(2.0, "Matching weight of the class cost.", low=0)
    set_cost_bbox: float = _option(5.0, "Matching weight of the box distance.", low=0)
    set_cost_giou: float = _option(2.0, "Matching weight of the generalised IoU.", low=0)
    set_cost_keypoints: float = _option(10.0, "Matching weight of the keypoint distance.", low=0)
    set_cost_keypoints_visi: float = _option(4.0, "Matching weight of the keypoint visibility.", low=0)
    set_cost_oks: float = _option(4.0, "Matching weight of the object keypoint similarity.", low=0)
    cls_loss_coef: float = _option(2.0, "Weight of the class loss.", low=0)
    bbox_loss_coef: float = _option(5.0, "Weight of the box distance.", low=0)
    giou_loss_coef: float = _option(2.0, "Weight of the generalised IoU loss.", low=0)
    keypoints_loss_coef: float = _option(10.0, "Weight of the keypoint distance.", low=0)
    keypoints_visi_loss_coef: float = _option(4.0, "Weight of the keypoint visibility loss.", low=0)
    oks_loss_coef: float = _option(4.0, "Weight of the object keypoint similarity loss.", low=0)
    mask_loss_coef: float = _option(2.0, "Weight of the focal loss of mask pixels.", low=0)
    dice_loss_coef: float = _option(5.0, "Weight of the dice loss of masks.", low=0)
    interm_loss_coef: float = _option(1.0, "Weight of the proposals' losses, on top of their own.", low=0)
    focal_alpha: float = _option(0.25, "Share of the positive class in the focal losses.", low=0)
    interm: bool = _option(True, "Train the two-stage proposals; the published training code gives them no gradient.")
    masks: bool = _option(True, "Train the masks.")
    visibility_divided_twice: bool = _option(
        True, "Divide the mean visibility loss by the number of people once more, as published; false: sum over people / people."
    )
    costs_logged_as_published: bool = _option(
        True, "set_cost_* of person j of a picture looks at person j of the batch, as published; false: at the matched person."
    )

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.focal_alpha > 1:
            raise UsageError(f"focal_alpha is {self.focal_alpha}; it must be at most 1.")


SCHEDULES = ("step", "cosine")
# What stands before the transformer, by the first part of a parameter's name in the whole model.
FRONT_END = (
    "backbone", "text_encoder", "text_proj", "sentence_proj", "prompt_proj", "glob_prompt_proj", "fusion_module", "input_proj",
)


@dataclass(frozen=True)
class OptimArgs:
    """AdamW, its learning rates, their schedule, clipping and averaging; the defaults are what UniPHD publishes. Raises UsageError.

    A learning rate belongs to the parameters whose name contains `adjacent_matrix`, else `backbone` (also the text encoder's, whose
    names have it: `text_encoder.text_backbone`), else to the rest. Below 1, `front_end_share` slows all that stands before the
    transformer, where that was trained ahead.
    """

    lr: float = _option(1e-4, "Learning rate.", low=0)
    lr_backbone: float = _option(1e-5, "Learning rate of the backbone and the text encoder.", low=0)
    lr_adjacent_matrix: float = _option(1e-4, "Learning rate of the graph biases.", low=0)
    front_end_share: float = _option(1.0, "What multiplies the learning rates of all that stands before the transformer.", low=0)
    weight_decay: float = _option(1e-4, "Weight decay.", low=0)
    decay_norms: bool = _option(True, "Weight decay also on vectors: norms and biases.")
    batch_size: int = _option(4, "Pictures per step.", low=1)
    epochs: int = _option(20, "Epochs.", low=1)
    schedule: str = _option("step", "Learning rate over time: step (per epoch) or cosine (per step, to 0).", choices=SCHEDULES)
    lr_drop: int = _option(18, "step: epochs after which the learning rate is multiplied by lr_gamma.", low=1)
    lr_gamma: float = _option(0.1, "step: the factor.", low=0)
    warmup_steps: int = _option(0, "Steps in which the learning rate rises from 0.", low=0)
    clip_max_norm: float = _option(0.1, "Largest norm of the gradient; 0: no clipping.", low=0)
    use_ema: bool = _option(False, "Keep an exponential moving average of the weights and evaluate that.")
    ema_decay: float = _option(0.9997, "Its decay per step.", low=0)
    ema_warmup: bool = _option(False, "The decay rises to that: at most (1 + n) / (10 + n) after n steps.")
    freeze_text_encoder: bool = _option(False, "Do not train the text encoder.")

    def __post_init__(self) -> None:
        _check_fields(self)
        if not self.lr:
            raise UsageError("lr is 0; it must be above 0, or nothing is learned.")
        if self.ema_decay >= 1:
            raise UsageError(f"ema_decay is {self.ema_decay}; it must be below 1, or the average never moves.")

    @classmethod
    def preset(cls, name: str, **changes: object) -> OptimArgs:
        """The options of `PRESETS[name]` with `changes`. Raises UsageError."""
        if name not in PRESETS:
            raise UsageError(f"the preset {name!r} is not known; choose one of {', '.join(PRESETS)}.")
        return dataclasses.replace(PRESETS[name], **changes)

    def with_lr(self, lr: float) -> OptimArgs:
        """The same with learning rate `lr`, the others in proportion: a point of a grid."""
        share = lr / self.lr
        return dataclasses.replace(self, lr=lr, lr_backbone=self.lr_backbone * share, lr_adjacent_matrix=self.lr_adjacent_matrix * share)


PRESETS = {
    "published": OptimArgs(),
    # Small models, thousands of pictures: gradient norms of 50 to 120 make a limit of 0.1 a step of fixed length, and few steps are
    # better spent on one decay to zero than on a late drop.
    "small": OptimArgs(
        lr=5e-4,
        lr_backbone=5e-4,
        lr_adjacent_matrix=5e-4,
        decay_norms=False,
        batch_size=8,
        schedule="cosine",
        warmup_steps=100,
        clip_max_norm=1.0,
        use_ema=True,
        ema_decay=0.995,
        ema_warmup=True,
    ),
}
