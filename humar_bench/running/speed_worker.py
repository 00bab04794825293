"""The child's side of `fps`: all architectures built in one process, their outputs held against what they must be, then timed in turn."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import secrets
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from humar_bench.args import EAGER
from humar_bench.devices.device import Device
from humar_bench.devices.environment import OthersWatch
from humar_bench.errors import MeasurementError, is_out_of_memory, one_line
from humar_bench.judging.faults import UNHELD
from humar_bench.measures.agreement import Agreement, Parts, agree, expected_outputs, fresh_outputs, shared_call
from humar_bench.measures.call import called
from humar_bench.measures.conditions import conditions, watch_inside
from humar_bench.measures.energy import ENERGY_PROCESSES, measure_energies
from humar_bench.measures.speed import SLOW_S, Block, Progress, SpeedSample, TimingPlan, Varied, time_architectures
from humar_bench.measures.untouched import left_untouched
from humar_bench.records.record import AGAIN
from humar_bench.running.preparation import Ready, make_ready, missing_instructions, set_formats
from humar_bench.running.task import Task, success
from humar_bench.subjects import knife_edge
from humar_bench.subjects.registry import Architecture
from humar_bench.subjects.subject import Subject

EVENT_EVERY_S = 1.0  # a running measurement says so at most this often, between two rounds
CHANCES = 4  # forwards on one input, one of which should differ where chance is in them
AGAIN_BUILT, ITSELF = "a second build from the same seed", "its own eager forward alone"  # what outputs are held against at worst
CHECK_SHARE = 0.2  # of a process's budget: more than this the float32 forwards may not cost, but in the first process


MOST_NEW, NEW_BYTES = 64, 8 * 2**20  # different inputs of one block: at most so many, and no more than a processor's cache holds
FETCHED_BYTES_PER_S = 2e10  # about what a core reads from there
FETCHED_SHARE = 0.02  # of a call: more than this, fetching another input each time would be taken for knowing the old one


class NewInputs:
    """Inputs that no forward has seen: sets in memory of their own, other values each time; two in turn where a block takes one."""

    def __init__(
        self, make: Callable[[int], Any], renewed: Callable[[Any], list[tuple[torch.Tensor, int]] | None],
        scales: tuple[float, float] = Subject.scales,
    ) -> None:
        self.make, self.renewed, self.scales_of = make, renewed, scales
        self.sets: list[Any] = []
        self.turn = self.renewals = 0
        self.scales: list[float] = []

    @property
    def current(self) -> Any:
        if not self.sets:
            self.renew()
        return self.sets[self.turn]

    def at(self, index: int) -> Any:
        """The so many-th new input of a block."""
        if not self.sets:
            self.renew()
        return self.sets[(self.turn + index) % len(self.sets)]

    def renew(self, blocks: Mapping[str, Block] | None = None) -> dict[str, int]:
        """New values, for blocks of one call unless more is said. Returns how many different inputs each block may take, by name."""
        blocks = blocks or {}
        self.sets = self.sets or [self.make(1), self.make(2)]
        size = sum(each.numel() * each.element_size() for each in tree_leaves(self.sets[0]) if isinstance(each, torch.Tensor))
        allowed = {name: _different_inputs(block, size) for name, block in blocks.items()}
        for index in range(len(self.sets), max(allowed.values(), default=0)):
            self.sets.append(self.make(index + 1))
        self.renewals += 1
        self.turn = self.renewals % len(self.sets) if max(allowed.values(), default=1) == 1 else 0
        for index, one in enumerate(self.sets):
            if index == self.turn or max(allowed.values(), default=1) > 1:
                self._renew(index, one)
        return allowed

    def _renew(self, index: int, one: Any) -> None:
        """What the subject names is moved on by one along the dimension it names and scaled: its sum, by which a model may know it, too.
        Where it names nothing they are made with a seed of their own."""
        moved = self.renewed(one)
        if moved is None:
            self.sets[index] = self.make(MOST_NEW * self.renewals + index + 1)
            return
        self.scales += [1.0] * (index + 1 - len(self.scales))
        least, more = self.scales_of
        scale = least + more * ((0.618034 * self.renewals + 0.1 * index) % 1)  # no two of the last ones are alike
        for tensor, dim in moved:
            tensor.copy_(tensor.roll(1, dims=dim))
            if tensor.is_floating_point():
                tensor.mul_(scale / self.scales[index])
        self.scales[index] = scale


def _different_inputs(block: Block, size: int) -> int:
    """One a call, as many as fit; one for all calls where fetching another input each time would show in a call that reads it."""
    fetch_s = size / FETCHED_BYTES_PER_S
    if block.calls == 1 or FETCHED_SHARE * block.call_s < fetch_s < block.call_s:
        return 1
    return max(1, min(block.calls, MOST_NEW, NEW_BYTES // max(size, 1)))


class Arm:
    """One architecture in one process: its forwards in inference mode, and what their outputs have to be.

    `check` raises for outputs that break the shared call, `plain` gives them in containers that torch can walk through; `expect` gives a
    float32 forward's outputs for some inputs, None for an arm that is held against nothing but its own first call (a control); `expect_at`
    the same with border cells let in, where some lie on the threshold; `same` that these would be the same computation as its own first
    call, which then tells nothing. Outputs of slow forwards are kept, so that checking costs no other one. `ready` is how its backend runs
    `model`; without one it is called as it is.
    """

    def __init__(
        self, name: str, model: Any, inputs: Any, new_inputs: NewInputs, *, check: Callable[[Any], None] = lambda outputs: None,
        expect: Callable[[Any], Any] | None = None, dtype: str = "float32", tf32: bool = False, check_s: float = 0.0,
        started: Callable[[], None] = lambda: None, expect_at: Callable[[Any, str], Any] | None = None, ready: Ready | None = None,
        parts: Callable[[Any], Parts] = shared_call, same: bool = False, otherwise: Mapping[str, Callable[[Any], Any]] | None = None,
        plain: Callable[[Any], Any] = lambda outputs: outputs, pristine: Sequence[tuple[torch.Tensor, torch.Tensor]] = (),
    ) -> None:
        self.pristine = pristine
        self.name, self.model, self.inputs, self.new_inputs = name, model, inputs, new_inputs
        self.ready, self.expect_at, self.parts, self.same, self.otherwise = ready, expect_at, parts, same, otherwise or {}
        self.plain = plain
        self.forward = model if ready is None else ready.prepared.call
        self.check, self.expect, self.dtype, self.tf32, self.check_s, self.started = check, expect, dtype, tf32, check_s, started
        self.inference_mode = torch.inference_mode
        self.first = self.kept = self.kept_new = self.error = self.agreement = None
        self.renewals, self.taken, self.last_new, self.against = 0, 0, None, ""
        self.took_s = 0.0
        self.slow = False
        self.inside: dict[str, Any] | None = None
        self.skipped = "" if expect else "a control is held against its own first call"

    # Timed ---------------------------------------------------------------------------------------------------------------------------

    def __call__(self) -> None:
        if not self.took_s:
            return self._caught(self._first_call)
        with self.inference_mode():
            outputs = called(self.forward, self.inputs)
        if self.slow:
            self.kept = outputs

    def on_new(self) -> None:
        """A forward on new inputs, the next ones of those that there are."""
        new = self.new_inputs
        self.taken = self.taken + 1 if self.renewals == new.renewals else 0
        self.renewals = new.renewals
        inputs = new.at(self.taken)
        with self.inference_mode():
            outputs = called(self.forward, inputs)
        if self.slow:
            self.kept_new, self.last_new = outputs, inputs

    def _first_call(self) -> None:
        self.started()
        start_s = time.perf_counter()
        self.first = self._looking_inside()
        self.took_s = max(time.perf_counter() - start_s, 1e-9)
        overwrites = self.ready is not None and self.ready.prepared.overwrites  # then no outputs can be kept
        self.slow = self.took_s >= SLOW_S and not overwrites

    def _looking_inside(self) -> Any:
        """A forward's outputs; in what state the process is inside it is noted."""
        inside: dict[str, Any] = {}
        watched = isinstance(self.forward, torch.nn.Module)  # another runtime calls no modules, and hooks would make torch compile anew
        with left_untouched(), watch_inside(inside) if watched else contextlib.nullcontext(), self.inference_mode():
            outputs = called(self.forward, self.inputs)
        self.inside = inside
        return outputs

    def _caught(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:
            self.error, self.first, self.kept = error, None, None
            raise

    # Not timed -----------------------------------------------------------------------------------------------------------------------

    def check_first(self) -> None:
        """After the first call and before anything is timed: its outputs are whole, finite and right."""
        self._caught(self._check_first)

    def check_last(self) -> None:
        """After the timing: the outputs are still those of the first call, and right for inputs of other values too."""
        self._caught(self._check_last)

    def _check_first(self) -> None:
        self._refuse_writing()
        self.check(self.first)
        _without_gradients(self.name, self.plain(self.first))
        if not self.skipped and 3 * self.took_s > self.check_s:
            self.skipped = "too slow for every process; the first one is checked"
        if not self.same:
            self._hold(self.first, self.inputs)
        self.first = self._copied(self.first)

    def _refuse_writing(self) -> None:
        """Raises MeasurementError where a forward changed what it was called with, which is as it was again: others are called with it."""
        changed = False
        for tensor, was in self.pristine:
            now = tensor.detach().to("cpu")
            if not torch.equal(now.nan_to_num(), was.nan_to_num()):
                changed = True
                with torch.inference_mode():
                    tensor.copy_(was)
        if changed:
            raise MeasurementError(
                f"{self.name} writes into what it is called with, so that no two forwards get the same; let it work on a copy."
            )

    def _check_last(self) -> None:
        if not self.slow:
            self.kept = self._looking_inside()
        self.check(self.kept)
        if fault := agree(self._copied(self.kept), self.first, self.dtype, tf32=self.tf32, parts=self.parts).fault:
            raise MeasurementError(f"the outputs of {self.name} changed between its first call and its last on the same inputs: {fault}.")
        self.first = self.kept = None
        if self.skipped:
            return
        inputs = self.new_inputs.current
        if self.slow and self.kept_new is None:
            self.on_new()
        with self.inference_mode():
            outputs = self.kept_new if self.slow else called(self.forward, inputs)
        self.check(outputs)
        self._hold(outputs, self.last_new if self.slow else inputs)

    def _hold(self, outputs: Any, inputs: Any) -> None:
        """Hold outputs against a float32 forward on these inputs; where there is none, against the next best."""
        if self.skipped:
            return
        try:
            expected = self.expect(inputs)
        except Exception as error:
            said = "out of memory" if is_out_of_memory(error) else f"it raised {one_line(error)}"
            return self._hold_otherwise(outputs, inputs, f"{UNHELD}: {said}")
        found: Agreement = agree(outputs, expected, self.dtype, tf32=self.tf32, parts=self.parts)
        if found.fault and found.common_share < 1 and self.expect_at is not None:
            found = self._without_the_border(outputs, inputs) or found
        self.agreement = found.worse(self.agreement)
        if found.fault:
            self._refuse_chance(inputs)
            raise MeasurementError(f"the outputs of {self.name} differ from a float32 eager forward of the same weights: {found.fault}.")

    def _hold_otherwise(self, outputs: Any, inputs: Any, why: str) -> None:
        """Against what is built a second time from the same seed, else against the eager model itself; noted in `against`."""
        for against, make in self.otherwise.items():
            try:
                found = agree(outputs, make(inputs), self.dtype, tf32=self.tf32, parts=self.parts)
            except Exception:  # it cannot be made either
                continue
            if found.fault and against != ITSELF:
                continue  # a builder may draw its weights from elsewhere
            self.agreement, self.against = found.worse(self.agreement), f"{against}, for there is {why}"
            if found.fault:
                raise MeasurementError(f"the outputs of {self.name} differ from its own in eager mode on the same inputs: {found.fault}.")
            return
        self.skipped = why

    def _refuse_chance(self, inputs: Any) -> None:
        """Raises MeasurementError where two forwards one after the other on the same inputs differ: nothing else need be wrong."""
        with self.inference_mode():
            one, *others = (self._copied(called(self.forward, inputs)) for _ in range(CHANCES))
        found = [agree(other, one, self.dtype, tf32=self.tf32, parts=self.parts) for other in others]
        worst = max(found, key=lambda each: (bool(each.fault), each.max_error))
        if worst.fault or worst.max_error > worst.tolerance / 10:  # sums in another order differ by far less
            said = worst.fault or f"{worst.worst} by {worst.max_error:.2g} of its root mean square"
            raise MeasurementError(
                f"two forwards of {self.name} on one input differ: {said}; it may draw random numbers, such as a dropout that stays on in "
                "eval mode; let it compute the same each time."
            )

    def _copied(self, outputs: Any) -> Any:
        """Outputs in memory of their own, on the CPU: a model may write its next ones into the same tensors."""
        return tree_map_only(torch.Tensor, lambda each: each.detach().to("cpu", copy=True), self.plain(outputs))

    def _without_the_border(self, outputs: Any, inputs: Any) -> Agreement | None:
        """How outputs agree once border cells on the threshold are let in, where that is all that keeps them apart."""
        for side in knife_edge.SIDES:
            found = agree(outputs, self.expect_at(inputs, side), self.dtype, tf32=self.tf32, parts=self.parts)
            if not found.fault:
                return dataclasses.replace(found, border_cells=side)
        return None

    def measured(self) -> dict[str, Any]:
        """What the checks found, for the record."""
        found = self.agreement
        when = "" if found is None else "before" if self.skipped else "after" if self.same else "before and after"
        told = {"checked": "" if found is None else when, "skipped": self.skipped}
        if found is not None:
            names = ("max_error", "worst", "tolerance", "same_selection", "common_share")
            told |= {name: getattr(found, name) for name in names if found.selects or name not in names[-2:]}
            told |= {"border_cells": found.border_cells} if found.border_cells else {}
            told |= {"against": self.against} if self.against else {}
        return {"agreement": told, "inside": self.inside or {}}


def _without_gradients(name: str, outputs: Any) -> None:
    """Outputs that can be differentiated were made while a graph was recorded; a parameter that is handed out was not."""
    if any(each.requires_grad and not each.is_leaf for each in tree_leaves(outputs) if isinstance(each, torch.Tensor)):
        raise MeasurementError(f"the outputs of {name} require gradients; it was not run in inference mode.")


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
        return {"status": "failed", "kind": sample.error_kind, "reason": f"{sample.error.rstrip('.')}.", "built": {}, "measured": None}
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
