"""The child process of `humar-bench claims`: what a model does, rather than what it costs.

One small forward each: as it is, with noise under the padding, with other maps. Every parameter is moved a little first, so that layers
that start at zero take part.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from humar_bench.errors import HumarBenchError, one_line
from humar_bench.running.task import Task
from humar_bench.running.worker import serve
from humar_bench.subjects.transformer import Inputs

NOISE = 10.0  # of what stands under the padding, in standard deviations of the maps
SHAKE = 0.05


def behaviour(task: Task) -> dict[str, Any]:
    """How many refinements a model makes, whether they start from proposals of the memory, and how far padding leaks."""
    [architecture] = task.architectures
    model = shaken(task.model(architecture, "cpu"))
    inputs, other = task.inputs("cpu"), task.inputs("cpu", other=1)
    with torch.inference_mode():
        outputs = model(*inputs)
        task.check(architecture, outputs)
        noisy = model(*with_noise_under_padding(inputs))
        moved = model(*inputs._replace(srcs=other.srcs))
    hs_pose, refpoint_pose, mix_refpoint, *_ = outputs
    keypoints = refpoint_pose[0][..., 2:]
    return {
        "iterations": sum(not torch.equal(before, after) for before, after in zip(refpoint_pose, refpoint_pose[1:], strict=False)),
        "tokens": hs_pose[0].shape[2],
        "start_distance": largest([(keypoints, mix_refpoint)]),
        "proposals_move": largest([(mix_refpoint, moved[2])]),
        "padding_leak": largest(list(zip(visible(outputs, inputs), visible(noisy, inputs), strict=True))),
    }


def shaken(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(SHAKE * torch.randn(parameter.shape, generator=generator))
    return model


def with_noise_under_padding(inputs: Inputs) -> Inputs:
    generator = torch.Generator().manual_seed(1)

    def noisy(maps: list[Tensor]) -> list[Tensor]:
        return [
            torch.where(mask[:, None], NOISE * torch.randn(each.shape, generator=generator), each)
            for each, mask in zip(maps, inputs.masks, strict=True)
        ]

    return inputs._replace(srcs=noisy(inputs.srcs), pos_embeds=noisy(inputs.pos_embeds))


def visible(outputs: Any, inputs: Inputs) -> list[Tensor]:
    """Every output, maps only where the image is."""
    hs_pose, refpoint_pose, mix_refpoint, mix_embedding, maps = outputs
    valid = [each.masked_fill(mask[:, None], 0) for each, mask in zip(maps, inputs.masks, strict=False)]
    return [*hs_pose, *refpoint_pose, mix_refpoint, mix_embedding, *valid]


def largest(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """The largest difference of two outputs."""
    return max(float((one - other).abs().max()) for one, other in pairs)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    task = Task.read(request)
    try:
        return {"behaviour": behaviour(task)}
    except HumarBenchError as error:
        return {"error": str(error)}
    except Exception as error:
        return {"error": f"{task.architectures[0].name} raised {one_line(error)}."}


if __name__ == "__main__":
    sys.exit(serve(answer))
