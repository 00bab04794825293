"""AdamW with the published groups and schedule, gradient clipping, and a moving average of the weights; options in `OptimArgs`.

Everything that torch has is torch's. What is ours is which parameter learns how fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from humar_bench.errors import UsageError
from humar_bench.training.options import FRONT_END, OptimArgs

TEXT_ENCODER = "text_encoder"
GROUPS = (("adjacent_matrix", "lr_adjacent_matrix"), ("backbone", "lr_backbone"), ("", "lr"))  # the first part that a name contains


def parameter_groups(model: nn.Module, args: OptimArgs) -> list[dict]:
    """Groups for an optimiser, each with `name`, `lr` and `weight_decay`; frozen parameters are left out, shared ones stand once.

    Raises UsageError when nothing is left to train.
    """
    groups: dict[tuple[str, bool, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part, rate = next((part, rate) for part, rate in GROUPS if part in name)
        decays = args.decay_norms or parameter.ndim > 1
        slowed = args.front_end_share != 1 and name.removeprefix("model.").partition(".")[0] in FRONT_END  # of a `TrainingStep` too
        label = (part or "rest") + ("" if decays else ", no decay") + (", before the transformer" if slowed else "")
        lr = getattr(args, rate) * (args.front_end_share if slowed else 1)
        group = {"name": label, "params": [], "lr": lr, "weight_decay": args.weight_decay if decays else 0.0}
        groups.setdefault((rate, decays, slowed), group)["params"].append(parameter)
    if not groups:
        raise UsageError("no parameter of the model is trainable; freeze less of it.")
    return list(groups.values())


def build_optimizer(model: nn.Module, args: OptimArgs) -> torch.optim.AdamW:
    """AdamW over the model's groups; freezes the text encoder first if that is asked. Raises UsageError."""
    if args.freeze_text_encoder:
        for name, parameter in model.named_parameters():
            if TEXT_ENCODER in name:
                parameter.requires_grad_(False)
    groups = parameter_groups(model, args)
    fused = all(each.dtype == torch.float32 for group in groups for each in group["params"])  # a fifth of the time of small models
    return torch.optim.AdamW(groups, lr=args.lr, weight_decay=args.weight_decay, fused=fused)


def rate_factor(args: OptimArgs, step: int, steps_per_epoch: int) -> float:
    """What multiplies every learning rate in step `step` (from 0)."""
    warm = min(1.0, (step + 1) / args.warmup_steps) if args.warmup_steps else 1.0
    if args.schedule == "step":
        return warm * args.lr_gamma ** (step // steps_per_epoch // args.lr_drop)
    done = min(step / (args.epochs * steps_per_epoch), 1.0)
    return warm * 0.5 * (1 + math.cos(math.pi * done))


def build_schedule(optimizer: torch.optim.Optimizer, args: OptimArgs, steps_per_epoch: int) -> LambdaLR:
    """The schedule, to be stepped after every step of the optimiser. Raises UsageError when an epoch has no step."""
    if steps_per_epoch < 1:
        raise UsageError(f"an epoch has {steps_per_epoch} steps; give it at least one batch of pictures.")
    return LambdaLR(optimizer, lambda step: rate_factor(args, step, steps_per_epoch))


def build_ema(model: nn.Module, args: OptimArgs) -> AveragedModel | None:
    """The moving average of the model's weights, its buffers the model's own; None when it is off. `update_parameters` after a step."""
    if not args.use_ema:
        return None
    return AveragedModel(model, multi_avg_fn=_warming(args.ema_decay) if args.ema_warmup else get_ema_multi_avg_fn(args.ema_decay))


def _warming(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor], None]:
    """After n steps the decay is at most (1 + n) / (10 + n), as TensorFlow has it: a short run's average is not its first weights."""

    def update(averages: Sequence[Tensor], current: Sequence[Tensor], number: Tensor) -> None:
        steps = int(number)  # a tensor of the host
        get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(averages, current, number)

    return update


def clip_gradients(parameters: Iterable[Tensor], args: OptimArgs) -> Tensor:
    """Scale the gradients to a norm of at most `clip_max_norm` (0: leave them); returns the norm before, on the device."""
    return nn.utils.clip_grad_norm_(parameters, args.clip_max_norm or math.inf)
