"""Time by component: what of a forward each named part takes for itself, beside the same forward left alone. A breakdown, no verdict.

The forwards of the modules where another component begins are wrapped. At each entry and exit a stamp is taken, and the time since the
stamp before goes to the component that was running: a component's time is its own, without what it calls in others, and all of them add up
to the instrumented forward. A stamp is a reading of wall and CPU clock, on a device with streams an event in the current one, behind the
gate of `devices.device`, so that neither a wait nor launch cost enters. Forwards with and without stamps take turns; the difference of the
two is what the instrumentation cost.

Wrapped, not hooked: hooks make torch leave its fused encoder layers (`torch.nn.TransformerEncoderLayer`), and see no direct `.forward()`.
What torch.compile or torch.jit made is one piece of whoever calls it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import nn

from humar_bench.devices.device import Device, Timing
from humar_bench.measures.components import component_of
from humar_bench.measures.speed import garbage_held
from humar_bench.measures.untouched import left_untouched

MIN_ROUNDS, MAX_ROUNDS = 1, 50
WARM_UP_RUNS, WARM_UP_S = 5, 0.25  # forwards before the first round: so many or so long, whichever ends first


@dataclass
class ComponentTimes:
    """Raw times in seconds, one value a round: `components` is component -> clock -> its own times, `instrumented` the whole forward with
    stamps and `plain` the one without, clock -> times. `entered` is how often a forward enters a component, `stamps` how many it takes;
    `gate_held` is None on a device without events."""

    clocks: tuple[str, ...]
    components: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    entered: dict[str, int] = field(default_factory=dict)
    instrumented: dict[str, list[float]] = field(default_factory=dict)
    plain: dict[str, list[float]] = field(default_factory=dict)
    stamps: int = 0
    gate_held: list[bool] | None = None

    @property
    def rounds(self) -> int:
        return len(next(iter(self.plain.values()), []))

    def measured(self) -> dict[str, Any]:
        """As plain values for a record."""
        return {**dataclasses.asdict(self), "clocks": list(self.clocks), "rounds": self.rounds}


def time_components(
    model: nn.Module, call: Callable[[], Any], device: Device, *, min_rounds: int = MIN_ROUNDS, max_rounds: int = MAX_ROUNDS,
    budget_s: float = 4.0, check: Callable[[Any], None] = lambda outputs: None,
) -> ComponentTimes:
    """Time the components of `model` (`components.component_of`) while `call` makes one forward of it and returns its outputs.

    Rounds of one forward without and one with stamps go on until `budget_s` seconds or `max_rounds` are used, at least `min_rounds`. The
    model is as before afterwards, also when its forward raises. `check` is given the first outputs and may raise.
    """
    found = ComponentTimes(tuple(device.clocks))
    with garbage_held():
        begins = _warm_up(model, call, device, check)
        spent_s, rounds = 0.0, 0
        while rounds < min_rounds or (rounds < max_rounds and spent_s < budget_s):
            start_s = device.now_s()
            _round(found, model, call, device, begins, stamps_first=rounds % 2 == 1)
            spent_s += device.now_s() - start_s
            rounds += 1
    return found


Begins = dict[tuple[int, str], str]  # (module by id, component that calls it) -> its own component, where the two differ


def _warm_up(model: nn.Module, call: Callable[[], Any], device: Device, check: Callable[[Any], None]) -> Begins:
    """The first forwards, not kept; the first of them says where components begin."""
    start_s = device.now_s()
    explorer = _Explorer(model)
    with left_untouched(), _wrapped(explorer.modules, explorer.wrap):
        outputs = call()
    device.synchronize()
    check(outputs)
    del outputs
    for _ in range(WARM_UP_RUNS - 1):
        if device.now_s() - start_s >= WARM_UP_S:
            break
        call()
        device.synchronize()
    return explorer.begins


def _round(
    found: ComponentTimes, model: nn.Module, call: Callable[[], Any], device: Device, begins: Begins, *, stamps_first: bool
) -> None:
    """One forward of each kind, in turn first."""
    launch_s = 0.0
    for stamped in (stamps_first, not stamps_first):
        gc.collect()
        if stamped:
            watch = _Stamps(model, device, begins)
            launch_s = launch_s or _median(found.plain.get("enqueue_s"))
            spans, held = device.time_stamps(lambda watch=watch: watch.run(call), launch_s)
            _keep_stamped(found, watch, spans, held)
        else:
            timing = device.time_call(call)
            launch_s = timing.enqueue_s or 0.0
            _keep_plain(found, timing)


def _keep_plain(found: ComponentTimes, timing: Timing) -> None:
    for clock in ("wall_s", "cpu_s", "device_s", "enqueue_s"):
        if getattr(timing, clock) is not None:
            found.plain.setdefault(clock, []).append(getattr(timing, clock))


def _keep_stamped(found: ComponentTimes, watch: _Stamps, spans: list[tuple[float, ...]], held: bool | None) -> None:
    for index, clock in enumerate(found.clocks):
        own = dict.fromkeys((*found.components, *watch.running), 0.0)
        for component, span in zip(watch.running, spans, strict=True):
            own[component] += span[index]
        for component, seconds in own.items():
            before = found.components.setdefault(component, {}).setdefault(clock, [0.0] * len(found.instrumented.get(clock, ())))
            before.append(seconds)
        found.instrumented.setdefault(clock, []).append(sum(span[index] for span in spans))
    found.entered, found.stamps = watch.entered, len(spans) + 1
    if held is not None:
        found.gate_held = [*(found.gate_held or []), held]


def _median(values: list[float] | None) -> float:
    return median(values) if values else 0.0


class _Explorer:
    """Finds the modules at which another component begins, whoever calls them, while one forward runs. Those in what torch compiles by
    itself, such as the branches of torch.cond, are left alone: their time is their caller's."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.paths: dict[int, list[str]] = {}  # a module may have several
        self.modules: list[nn.Module] = []
        self.begins: Begins = {}
        self.stack = [""]
        self._collect(model, "")

    def _collect(self, module: nn.Module, path: str) -> None:
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
            return
        if id(module) not in self.paths:
            self.modules.append(module)
        self.paths.setdefault(id(module), []).append(path)
        for name, child in module.named_children():
            self._collect(child, f"{path}.{name}" if path else name)

    def wrap(self, module: nn.Module, forward: Callable) -> Callable:
        paths = self.paths[id(module)]

        @functools.wraps(forward)
        def explored(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return forward(*args, **kwargs)
            caller = self.stack[-1]
            path = next((each for each in paths if not caller or each.startswith(f"{caller}.")), paths[0])
            mine, callers = component_of(self.model, path), component_of(self.model, caller)
            if mine != callers:
                self.begins[id(module), callers] = mine
            self.stack.append(path)
            try:
                return forward(*args, **kwargs)
            finally:
                self.stack.pop()

        return explored


class _Stamps:
    """One forward with a stamp wherever another component begins or ends; `running` names who ran from each stamp to the next."""

    def __init__(self, model: nn.Module, device: Device, begins: Begins) -> None:
        self.device, self.begins = device, begins
        self.current = component_of(model, "")
        inside = {key for key, _ in begins}
        self.modules = [module for module in model.modules() if id(module) in inside]
        self.stamps: list[Any] = []
        self.running: list[str] = []
        self.entered: dict[str, int] = {self.current: 1}

    def run(self, call: Callable[[], Any]) -> list[Any]:
        """Make the forward and give back its stamps."""
        with _wrapped(self.modules, self.wrap):
            self._switch(self.current)
            call()
            self.stamps.append(self.device.stamp())
        return self.stamps

    def wrap(self, module: nn.Module, forward: Callable) -> Callable:
        key = id(module)

        @functools.wraps(forward)
        def stamped(*args: Any, **kwargs: Any) -> Any:
            caller = self.current
            mine = self.begins.get((key, caller), caller)
            if mine == caller:
                return forward(*args, **kwargs)
            self.entered[mine] = self.entered.get(mine, 0) + 1
            self._switch(mine)
            try:
                return forward(*args, **kwargs)
            finally:
                self._switch(caller)

        return stamped

    def _switch(self, component: str) -> None:
        self.stamps.append(self.device.stamp())
        self.running.append(component)
        self.current = component


@contextlib.contextmanager
def _wrapped(modules: list[nn.Module], wrap: Callable[[nn.Module, Callable], Callable]) -> Iterator[None]:
    """The modules' forwards replaced inside, and as they were outside."""
    own = [(module, module.__dict__.get("forward")) for module in modules]
    try:
        for module in modules:
            module.__dict__["forward"] = wrap(module, module.forward)
        yield
    finally:
        for module, forward in own:
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward
