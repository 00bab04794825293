"""One architecture while it is timed: its forwards, and its outputs held against what they must be."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from humar_bench.errors import MeasurementError, is_out_of_memory, one_line
from humar_bench.measures.agreement import Agreement, Parts, agree, shared_call
from humar_bench.measures.call import called
from humar_bench.measures.conditions import watch_inside
from humar_bench.measures.speed import SLOW_S
from humar_bench.measures.untouched import left_untouched
from humar_bench.records.record import UNHELD
from humar_bench.running.new_inputs import NewInputs
from humar_bench.running.preparation import Ready
from humar_bench.subjects import knife_edge

CHANCES = 4  # forwards on one input, one of which should differ where chance is in them
AGAIN_BUILT, ITSELF = "a second build from the same seed", "its own eager forward alone"  # what outputs are held against at worst


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
        self.upcoming: Iterator[Any] = iter(())
        self.last_new, self.against = None, ""
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
        """A forward on new inputs, the next ones of those that there are; in as many steps as one on the same."""
        inputs = next(self.upcoming, None)
        if inputs is None:  # they were renewed
            self.upcoming = self.new_inputs.upcoming()
            inputs = next(self.upcoming)
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
    """Outputs that can be differentiated were made while a graph was recorded; a parameter that is handed out was not. Inference mode is a
    thread's own."""
    if any(each.requires_grad and not each.is_leaf for each in tree_leaves(outputs) if isinstance(each, torch.Tensor)):
        raise MeasurementError(
            f"the outputs of {name} require gradients: some of its forward ran where the inference mode around it does not reach, such as "
            "in a thread of its own, and recorded a graph; let it compute there inside torch.inference_mode(), or detach what it returns."
        )
