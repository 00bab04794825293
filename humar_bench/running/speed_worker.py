"""The child's side of `fps`: all architectures built in one process, their outputs held against what they must be, then timed in turn."""

from __future__ import annotations

import random
import secrets
import time
import warnings
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from humar_bench.args import EAGER
from humar_bench.devices.device import Device
from humar_bench.devices.environment import OthersWatch
from humar_bench.measures.agreement import Parts, expected_outputs, fresh_outputs, shared_call
from humar_bench.measures.conditions import conditions
from humar_bench.measures.energy import ENERGY_PROCESSES, measure_energies
from humar_bench.measures.speed import Progress, Varied, time_architectures
from humar_bench.measures.speed_sample import SpeedSample, TimingPlan
from humar_bench.records.record import AGAIN, failed_result
from humar_bench.running.arm import AGAIN_BUILT, ITSELF, Arm
from humar_bench.running.new_inputs import NewInputs
from humar_bench.running.preparation import Ready, make_ready, missing_instructions, set_formats
from humar_bench.running.task import Task, success
from humar_bench.subjects import knife_edge
from humar_bench.subjects.registry import Architecture

EVENT_EVERY_S = 1.0  # a running measurement says so at most this often, between two rounds
CHECK_SHARE = 0.2  # of a process's budget: more than this the float32 forwards may not cost, but in the first process


def measure_fps(task: Task, device: Device) -> dict[str, dict[str, Any]]:
    """Every architecture built in this one process, in an order shuffled by the seed, then timed in turn."""
    plan = TimingPlan(**task.plan)
    set_formats(task.run.dtype)
    inputs = task.inputs(device.name)
    pristine = _copies(inputs)
    task.subject.renewed(inputs)  # refuses what could not be renewed before anything is timed
    new_inputs = NewInputs(lambda other: task.inputs(device.name, other=other), task.subject.renewed, task.subject.scales)
    results: dict[str, dict[str, Any]] = {}
    arms: dict[str, Arm] = {}
    for architecture in construction_order(task):
        name = architecture.name
        task.tell("build", name)
        try:
            ready = make_ready(task, architecture, inputs, device, alone=len(task.architectures) == 1)
        except Exception as error:
            results[name] = task.failure(error, name)
            continue
        arms[name] = _arm(task, architecture, ready, inputs, new_inputs, device, plan, pristine)
    before, others = device.telemetry(), OthersWatch()
    samples = time_architectures(
        arms, device, plan, progress=_throttled(task), payers={name: name.removesuffix(AGAIN) for name in arms},
        varied=Varied({name: arm.on_new for name, arm in arms.items() if not name.endswith(AGAIN)}, new_inputs.renew),
        observe=lambda name: conditions(arms[name].model), first_done=lambda name: _first_done(arms[name]),
    ) if arms else {}
    after, others_share = device.telemetry(), others.share()
    energies = _energies(task, device, arms, samples)
    missing = missing_instructions(task.run.dtype, device.kind)
    child = secrets.token_hex(8)  # rounds pair by index only within one child
    for name, sample in samples.items():
        task.tell("last check", name)
        results[name] = _result(task, arms[name], sample)
        if results[name]["status"] == "ok":
            telemetry = None if before is None and after is None else {"before": before, "after": after}
            results[name]["measured"] |= {"child": child, "telemetry": telemetry, "others_share": others_share}
            results[name]["measured"] |= _run_conditions(task)
            results[name]["measured"] |= {"energy": energies[name]} if name in energies else {}
            results[name]["measured"] |= {**arms[name].ready.measured(task.run.backend), "emulated": missing}
    return results


def _copies(inputs: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each tensor of the inputs that has strides, and a copy of it on the CPU, where it adds to no device's memory."""
    plain = [each for each in tree_leaves(inputs) if isinstance(each, torch.Tensor) and each.layout is torch.strided]
    return [(each, each.detach().to("cpu", copy=True)) for each in plain if not each.is_nested]


def _first_done(arm: Arm) -> None:
    if arm.ready.footprint is not None:
        arm.ready.footprint.read()
    arm.check_first()


def _energies(task: Task, device: Device, arms: dict[str, Arm], samples: dict[str, SpeedSample]) -> dict[str, dict[str, Any]]:
    """After all timing, and where the device counts energy: what each architecture that was timed draws; controls are left out."""
    if task.process >= ENERGY_PROCESSES or device.energy_j() is None:
        return {}
    timed = {name: median(sample.wall_s) for name, sample in samples.items() if not (sample.error or name.endswith(AGAIN))}
    calls = {name: arms[name] for name in timed}
    return measure_energies(calls, device, timed, task.workload.batch, lambda name: task.tell("energy", name))


def _arm(
    task: Task, architecture: Architecture, ready: Ready, inputs: Any, new_inputs: NewInputs, device: Device, plan: TimingPlan,
    pristine: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> Arm:
    name, unasked = architecture.name, task.dtype is torch.float32  # then models and inputs are in the number types they were made in

    def expect(inputs: Any) -> Any:
        task.tell("check", name)
        model = task.model(architecture, device.name) if ready.dropped else ready.model
        own = task.subject.of(architecture)
        return expected_outputs(
            lambda: own.build(architecture, device=device.name, dtype=torch.float32, seed=task.run.seed), model, inputs, as_given=unasked
        )

    def built_again(inputs: Any) -> Any:
        own = task.subject.of(architecture)
        return fresh_outputs(own.build(architecture, device=device.name, dtype=torch.float32, seed=task.run.seed), inputs, as_given=unasked)

    def itself(inputs: Any) -> Any:
        return fresh_outputs(task.model(architecture, device.name) if ready.dropped else ready.model, inputs, as_given=True)

    def expect_at(inputs: Any, side: str) -> Any:
        with knife_edge.let_in(side):
            return expect(inputs)

    allowed = _run_conditions(task)["tf32"]
    border = not name.endswith(AGAIN) and not architecture.foreign and knife_edge.cells_on_the_threshold(task.workload)
    return Arm(
        name, ready.model, inputs, new_inputs, check=lambda outputs: task.check(architecture, outputs),
        expect=None if name.endswith(AGAIN) else expect, dtype=task.run.dtype,
        tf32=device.kind == "cuda" and (allowed["matmul"] or allowed["cudnn"]),
        check_s=float("inf") if task.process == 0 else CHECK_SHARE * plan.budget_s, started=lambda: task.tell("first call", name),
        expect_at=expect_at if border else None, ready=ready, parts=_parts_of(task), plain=task.subject.plain,
        pristine=pristine, otherwise={AGAIN_BUILT: built_again, ITSELF: itself},
        same=not architecture.foreign and task.run.backend == EAGER and task.run.dtype == "float32",
    )


def _parts_of(task: Task) -> Callable[[Any], Parts]:
    """How the outputs of a task's subject are held against each other."""
    own = task.subject.parts
    return shared_call if own is None else lambda outputs: Parts(**own(outputs))


def _result(task: Task, arm: Arm, sample: SpeedSample) -> dict[str, Any]:
    if arm.error is None and not sample.error:
        try:
            arm.check_last()
        except Exception as error:
            arm.error = error
    if arm.error is not None:
        return task.failure(arm.error, arm.name)
    if sample.error:
        return failed_result(sample.error_kind, f"{sample.error.rstrip('.')}.")
    about = {"process": task.process, "control_of": arm.name.removesuffix(AGAIN) if arm.name.endswith(AGAIN) else ""}
    return success(arm.model, {**about, **sample.measured(), "finite": True, **arm.measured()})


def construction_order(task: Task) -> list[Architecture]:
    """Architectures in the order this process builds them: where they come to lie in memory must not always favour the same one."""
    return random.Random(f"{task.run.seed}/{task.process}").sample(task.architectures, len(task.architectures))


def _run_conditions(task: Task) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that these names will change
        tf32 = {
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "matmul": bool(torch.backends.cuda.matmul.allow_tf32),
            "cudnn": bool(torch.backends.cudnn.allow_tf32),
        }
    return {"batch": task.workload.batch, "threads": torch.get_num_threads(), "dtype": task.run.dtype, "tf32": tf32}


def _throttled(task: Task) -> Callable[[Progress], None]:
    """Pass each stage's first progress on, then at most one every EVENT_EVERY_S seconds: the parent that shows it would run on the
    cores that are being measured."""
    last_s, stage = 0.0, ""

    def tell(progress: Progress) -> None:
        nonlocal last_s, stage
        now_s = time.monotonic()
        if progress.stage != stage or now_s - last_s >= EVENT_EVERY_S:
            last_s, stage = now_s, progress.stage
            task.tell(progress.stage, progress.architecture, share=progress.share)

    return tell
