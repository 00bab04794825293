"""Small modules for the counters' tests, and a look at everything a counter could leave behind on a model."""

from __future__ import annotations

import torch
from torch import nn


class Calls(nn.Module):
    """A module that is one function of its inputs."""

    def __init__(self, function, **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def shapes(*sizes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.zeros(size) for size in sizes]


def state(model: nn.Module) -> dict:
    """Values, identities, attributes, hooks, flags, and the random state."""
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "ids": [id(value) for value in (*model.parameters(), *model.buffers())],
        "attributes": {path: sorted(vars(module)) for path, module in model.named_modules()},
        "hooks": {path: (list(m._forward_hooks), list(m._forward_pre_hooks), list(m._backward_hooks)) for path, m in model.named_modules()},
        "training": {path: module.training for path, module in model.named_modules()},
        "classes": {path: (type(module), module.forward.__func__) for path, module in model.named_modules()},
        "functions": [id(f) for f in (nn.functional.linear, nn.functional.conv2d, nn.functional.softmax, torch.matmul, torch.bmm)],
        "random": torch.get_rng_state(),
    }


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
