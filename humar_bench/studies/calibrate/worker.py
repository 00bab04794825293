"""The child process of `humar-bench calibrate`: stacks of identical small layers, built in shuffled order and timed in turn.

A planted effect is real work, more of the same layers: 101 layers against 100 are 1 % more. Layers are small, so that one forward is
shorter than a scheduler slice; the first 100 layers of every stack carry the same weights, so equal stacks give equal outputs, to the bit.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from humar_bench.devices.device import Device
from humar_bench.devices.environment import environment, load_1min
from humar_bench.devices.opening import open_device
from humar_bench.errors import MeasurementError, UsageError
from humar_bench.measures.speed import time_architectures
from humar_bench.measures.speed_sample import SpeedSample, TimingPlan
from humar_bench.running.worker import serve

WIDTH, TOKENS = 32, 16


class Layer(nn.Module):
    """x + gelu(linear(norm(x)))."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + nn.functional.gelu(self.linear(self.norm(x)))


def build_arms(arms: Mapping[str, int], order: Sequence[str], device: str, seed: int) -> dict[str, nn.Sequential]:
    """One stack an arm, of as many layers as `arms` says, built in this order."""
    stacks = {}
    for name in order:
        torch.manual_seed(seed)
        stacks[name] = nn.Sequential(*[Layer() for _ in range(arms[name])]).eval().to(device)
    return stacks


def construction_order(arms: Mapping[str, int], seed: int, process: int) -> list[str]:
    """Shuffled anew in each process: where weights come to lie in memory must not always favour the same arm."""
    return random.Random(f"{seed}/{process}").sample(list(arms), len(arms))


def check_outputs(stacks: Mapping[str, nn.Module], arms: Mapping[str, int], x: torch.Tensor) -> None:
    """Nothing is timed that is not what it claims to be: finite everywhere, and the same where the layers are the same."""
    seen: dict[int, torch.Tensor] = {}
    for name, stack in stacks.items():
        output = stack(x)
        if not torch.isfinite(output).all():
            raise MeasurementError(f"the stack {name} gave an output that is not finite.")
        if not torch.equal(seen.setdefault(arms[name], output), output):
            raise MeasurementError(f"the stack {name} has the layers of another stack and a different output.")


def time_arms(request: Mapping[str, Any], device: Device) -> dict[str, Any]:
    """One process's raw data: every arm's times, in nanoseconds."""
    arms, seed, process = request["arms"], request["seed"], request["process"]
    order = construction_order(arms, seed, process)
    stacks = build_arms(arms, order, device.name, seed)
    x = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed)).to(device.name)
    with torch.inference_mode():
        check_outputs(stacks, arms, x)
        plan = TimingPlan(**request["plan"])
        samples = time_architectures({name: lambda each=stack: each(x) for name, stack in stacks.items()}, device, plan)
    for name, sample in samples.items():
        if sample.error:
            raise MeasurementError(f"the stack {name} could not be timed: {sample.error}")
    return {
        "process": process, "order": order, "order_seed": plan.seed, "load_1min": load_1min(),
        "arms": {name: raw_times(samples[name]) for name in arms},
    }


def raw_times(sample: SpeedSample) -> dict[str, Any]:
    """A sample in whole nanoseconds, which JSON keeps exactly and short; `preempted` has one digit a round."""
    raw: dict[str, Any] = {
        "wall_ns": [round(seconds * 1e9) for seconds in sample.wall_s],
        "cpu_ns": [round(seconds * 1e9) for seconds in sample.cpu_s],
        "preempted": "".join("1" if each else "0" for each in sample.preempted),
        "first_call_ns": round((sample.first_call_s or 0) * 1e9),
        "warmup_runs": sample.warmup_runs, "steady": sample.steady, "calls_per_block": sample.calls_per_block,
    }
    if sample.device_s is not None:
        raw["device_ns"] = [round(seconds * 1e9) for seconds in sample.device_s]
    return raw


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Raw data and the machine they were measured on, or one sentence: `usage_error` when asking was wrong, `error` when it failed."""
    torch.set_num_threads(request["threads"])
    try:
        device = open_device(request["device"])
        return {"environment": environment(device), "raw": time_arms(request, device)}
    except UsageError as error:
        return {"usage_error": str(error)}
    except MeasurementError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    sys.exit(serve(answer))
