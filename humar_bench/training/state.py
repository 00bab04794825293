"""A run's weights and optimiser as named tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from humar_bench.errors import UsageError
from humar_bench.subjects.checkpoint import other_types

MODEL, AVERAGE, OPTIMIZER, COUNT = "model.", "average.", "optimizer.", "averaged"


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, one that has two names once."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            found[name] = value.detach()
    return found


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], said: str) -> None:
    """Back from `weights_of`. Raises UsageError, which names the first that does not fit; the model is then as it was."""
    refuse_unfit_weights(model, weights, said)
    with torch.no_grad():
        for name, value in weights_of(model).items():
            value.copy_(weights[name])


def refuse_unfit_weights(model: nn.Module, weights: Mapping[str, Tensor], said: str) -> None:
    """Raises UsageError, which names the first that does not fit. The model may be on the meta device."""
    own = weights_of(model)
    for name in (*own, *weights):
        if name not in weights or name not in own or own[name].shape != weights[name].shape:
            raise UsageError(f"{said} holds another model: {name} does not fit.")
    if wrong := other_types(weights, own):
        raise UsageError(f"{said} holds another model: it has {wrong[0]}.")


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, ema: AveragedModel | None) -> dict[str, Tensor]:
    """Everything that training goes on from."""
    tensors = {MODEL + name: value for name, value in weights_of(model).items()}
    if ema is not None:
        tensors |= {AVERAGE + name: value for name, value in weights_of(ema.module).items()}
        tensors[COUNT] = ema.n_averaged
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter, state in optimizer.state.items():
        tensors |= {f"{OPTIMIZER}{names[id(parameter)]}|{key}": value for key, value in state.items()}
    return tensors


def restore(
    tensors: Mapping[str, Tensor], state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer,
    ema: AveragedModel | None, schedule: LambdaLR,
) -> None:
    """Go on from what `state_tensors` gave and the schedule's own state. Raises UsageError where it is of another model."""
    load_weights(model, part_of(tensors, MODEL), "the checkpoint")
    if ema is not None and COUNT not in tensors:
        raise UsageError("the checkpoint has no moving average and the run keeps one; start the run anew.")
    if ema is not None:
        load_weights(ema.module, part_of(tensors, AVERAGE), "the checkpoint's moving average")
        _refuse(COUNT not in tensors or tensors[COUNT].shape != ema.n_averaged.shape, COUNT)
        ema.n_averaged.copy_(tensors[COUNT])
    parameters = dict(model.named_parameters())
    for name, value in part_of(tensors, OPTIMIZER).items():
        name, _, key = name.rpartition("|")
        parameter = parameters.get(name)
        fits = parameter is not None and value.shape == (torch.Size() if key == "step" else parameter.shape)
        _refuse(not fits or not value.is_floating_point(), f"the optimiser's {key} of {name}")
        on = value if key == "step" and not _fused(optimizer) else value.to(parameter.device)
        optimizer.state[parameter][key] = on.clone()
    own = schedule.state_dict()
    for key in {**own, **state["schedule"]}:
        _refuse(_shape(own.get(key, {})) != _shape(state["schedule"].get(key, {})), f"the schedule's {key}")
    schedule.load_state_dict(dict(state["schedule"]))
    for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate


def _refuse(wrong: bool, what: str) -> None:
    if wrong:
        raise UsageError(f"the checkpoint is of another run: {what} does not fit; start the run anew.")


def _shape(value: Any) -> Any:
    """The type of a plain value, whole numbers as real ones; of a list, those of its elements."""
    if isinstance(value, list):
        return [_shape(each) for each in value]
    return float if type(value) is int else type(value)


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of one part, without its prefix."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _fused(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.defaults.get("fused"))
