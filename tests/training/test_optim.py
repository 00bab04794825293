"""Groups, schedule, clipping and moving average: the published preset against torch's own parts, and what the small one changes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from baselines.transformer import build_transformer
from humar_bench.errors import UsageError
from humar_bench.training.losses import Criterion
from humar_bench.training.optim import build_ema, build_optimizer, build_schedule, clip_gradients, parameter_groups
from humar_bench.training.options import PRESETS, LossArgs, OptimArgs
from humar_bench.training.step import TrainingStep, build_model, front_end_of
from tests.tolerance import assert_close
from tests.training.small_runs import tiny


class Whole(nn.Module):
    """Names like the whole model's: a backbone, a text encoder, the original transformer, a head under two names."""

    def __init__(self, args) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3)
        self.text_encoder = nn.ModuleDict({"text_backbone": nn.Linear(5, 5)})
        self.transformer = build_transformer(args)
        self.class_embed = self.transformer.decoder.class_embed


def rates(model: nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) by name of parameter."""
    found = {id(each): (group["lr"], group["weight_decay"]) for group in groups for each in group["params"]}
    return {name: found[id(each)] for name, each in model.named_parameters() if id(each) in found}


def test_published_rates_by_name(tiny_args):
    model = Whole(tiny_args)
    found = rates(model, parameter_groups(model, OptimArgs()))
    assert len(found) == len(list(model.parameters())) == sum(len(group["params"]) for group in parameter_groups(model, OptimArgs()))
    for name, (lr, decay) in found.items():
        assert lr == (1e-4 if "adjacent_matrix" in name or "backbone" not in name else 1e-5) and decay == 1e-4, name
    assert found["text_encoder.text_backbone.weight"][0] == 1e-5
    names = [group["name"] for group in parameter_groups(model, OptimArgs())]
    assert sorted(names) == ["adjacent_matrix", "backbone", "rest"]
    apart = rates(model, parameter_groups(model, OptimArgs(lr_adjacent_matrix=0.5)))
    assert {name for name, (lr, _) in apart.items() if lr == 0.5} == {name for name in found if "adjacent_matrix" in name}


def test_what_was_trained_ahead_can_be_slowed_and_nothing_else_is():
    options = tiny("original")
    model = build_model(options)
    for built, prefix in ((model, ""), (TrainingStep(model, Criterion(options.loss)), "model.")):
        plain, slowed = (rates(built, parameter_groups(built, OptimArgs(front_end_share=share))) for share in (1.0, 0.1))
        shares = {name.removeprefix(prefix): slowed[name][0] / plain[name][0] for name in plain}
        ahead = {name for name, share in shares.items() if share == pytest.approx(0.1)}
        assert ahead == {name for name in shares if name in front_end_of(model)} and len(ahead) > 30
        assert all(share == 1 for name, share in shares.items() if name not in ahead)
        assert {name: decay for name, (_, decay) in slowed.items()} == {name: decay for name, (_, decay) in plain.items()}
    still = parameter_groups(model, OptimArgs(front_end_share=0.0))
    assert {group["lr"] for group in still if "before the transformer" in group["name"]} == {0.0}


def test_small_preset_spares_norms_and_biases(tiny_args):
    model = Whole(tiny_args)
    found = rates(model, parameter_groups(model, OptimArgs.preset("small")))
    for name, parameter in model.named_parameters():
        assert found[name][1] == (1e-4 if parameter.ndim > 1 else 0), name


def test_a_frozen_text_encoder_has_no_group_and_no_gradient(tiny_args):
    model = Whole(tiny_args)
    optimizer = build_optimizer(model, OptimArgs(freeze_text_encoder=True))
    trained = rates(model, optimizer.param_groups)
    assert not any("text_encoder" in name for name in trained) and "backbone.weight" in trained
    with pytest.raises(UsageError, match="no parameter of the model is trainable"):
        build_optimizer(model.requires_grad_(False), OptimArgs())


def followed(args: OptimArgs, steps_per_epoch: int, steps: int) -> list[float]:
    """The learning rate of every step."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=args.lr)
    schedule = build_schedule(optimizer, args, steps_per_epoch)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_published_schedule_is_a_step_per_epoch():
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=1e-4)
    theirs = torch.optim.lr_scheduler.StepLR(optimizer, 18, 0.1)
    wanted = []
    for _ in range(20):
        wanted += [optimizer.param_groups[0]["lr"]] * 3
        optimizer.step()
        theirs.step()
    assert followed(PRESETS["published"], 3, 60) == pytest.approx(wanted, rel=1e-12)


def test_cosine_rises_over_the_warm_up_and_ends_at_zero():
    found = followed(OptimArgs(schedule="cosine", epochs=2, warmup_steps=4, lr=1.0), 10, 21)
    assert found[:4] == pytest.approx([(n + 1) / 4 * 0.5 * (1 + math.cos(math.pi * n / 20)) for n in range(4)])
    assert found[10] == pytest.approx(0.5) and found[20] == pytest.approx(0, abs=1e-12)
    assert all(later < earlier for earlier, later in zip(found[4:], found[5:], strict=False))
    with pytest.raises(UsageError, match="an epoch has 0 steps"):
        followed(OptimArgs(), 0, 1)


def test_a_schedule_goes_on_where_its_state_was_saved():
    args = OptimArgs(schedule="cosine", epochs=2)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=args.lr)
    schedule = build_schedule(optimizer, args, 10)
    for _ in range(7):
        optimizer.step()
        schedule.step()
    again = torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=args.lr)
    resumed = build_schedule(again, args, 10)
    resumed.load_state_dict(schedule.state_dict())
    again.load_state_dict(optimizer.state_dict())
    again.step()
    resumed.step()
    assert again.param_groups[0]["lr"] == followed(args, 10, 9)[8]


def test_gradients_are_clipped_to_the_norm_or_left():
    weight = nn.Parameter(torch.zeros(4))
    for limit, wanted in ((0.1, 0.1), (0.0, 6.0), (7.0, 6.0)):
        weight.grad = torch.full((4,), 3.0)
        assert clip_gradients([weight], OptimArgs(clip_max_norm=limit)).item() == pytest.approx(6.0)
        assert weight.grad.norm().item() == pytest.approx(wanted, rel=1e-4)


def test_the_moving_average_follows_weights_and_takes_buffers(tiny_args):
    model = nn.BatchNorm1d(3)
    ema = build_ema(model, OptimArgs(use_ema=True, ema_decay=0.9))
    ema.update_parameters(model)
    with torch.no_grad():
        model.weight += 1
        model.running_mean += 5
    ema.update_parameters(model)
    assert_close(ema.module.weight, torch.full((3,), 1.1))
    assert torch.equal(ema.module.running_mean, model.running_mean)
    assert build_ema(model, OptimArgs()) is None
    shared = build_ema(Whole(tiny_args), OptimArgs(use_ema=True)).module
    assert shared.class_embed is shared.transformer.decoder.class_embed


def test_the_moving_average_of_a_short_run_is_not_its_first_weights():
    model = nn.Linear(1, 1, bias=False)
    ema = build_ema(model, OptimArgs(use_ema=True, ema_decay=0.999, ema_warmup=True))
    wanted = None
    for step, value in enumerate((0.0, 1.0, 2.0, 4.0)):
        nn.init.constant_(model.weight, value)
        ema.update_parameters(model)
        share = (1 + step) / (10 + step)
        wanted = value if wanted is None else share * wanted + (1 - share) * value
    assert ema.module.weight.item() == pytest.approx(wanted, rel=1e-6)
    assert share < 0.999


def test_options_that_cannot_work_are_refused():
    for make, sentence in (
        (lambda: OptimArgs(ema_decay=1.0), "ema_decay is 1.0; it must be below 1"),
        (lambda: OptimArgs(lr=-1.0), "lr is -1.0; it must be at least 0"),
        (lambda: OptimArgs(front_end_share=-0.1), "front_end_share is -0.1; it must be at least 0"),
        (lambda: OptimArgs(lr=0.0), "lr is 0; it must be above 0"),
        (lambda: OptimArgs(schedule="linear"), "schedule is 'linear'; choose one of step, cosine"),
        (lambda: OptimArgs.preset("large"), "the preset 'large' is not known; choose one of published, small"),
        (lambda: LossArgs(focal_alpha=1.5), "focal_alpha is 1.5; it must be at most 1"),
    ):
        with pytest.raises(UsageError, match=sentence):
            make()


def test_presets_are_changed_by_name_and_rates_in_proportion():
    args = OptimArgs.preset("published", epochs=3).with_lr(1e-3)
    assert (args.epochs, args.lr, args.weight_decay) == (3, 1e-3, 1e-4)
    assert args.lr_backbone == pytest.approx(1e-4) and args.lr_adjacent_matrix == pytest.approx(1e-3)
