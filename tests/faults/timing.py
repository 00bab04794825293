"""Faults of timing: a harness that reads its clocks wrongly, a model that cheats, a machine that does not treat both arms alike."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator
from typing import Any

from humar_bench.devices.device import Timing
from humar_bench.devices.virtual import _Event
from humar_bench.measures import component_time, speed
from humar_bench.records.record import COMPONENT_TIME
from humar_bench.running import speed_worker
from tests.faults import models
from tests.faults.fault import Fault
from tests.faults.harness import Patch, VirtualCpu, VirtualGpu, flags, measured

CHECK = "outputs are checked before they are timed"
AUDIT = "the record is held against itself (`contradictions.py`)"


class NoEndSync(VirtualGpu):
    """Its wall clock is read as soon as the work is launched."""

    def time_call(self, call: Any, calls: int = 1, *, device_time: bool = True, telemetry: bool = False) -> Timing:
        self.synchronize()
        cpu_s, start_s = self.cpu_now_s(), self.now_s()
        for _ in range(calls):
            call()
        wall_s, cpu_s = self.now_s() - start_s, self.cpu_now_s() - cpu_s
        self.synchronize()
        if not device_time:
            return Timing(wall_s, cpu_s, None, False)
        device_s, held, read = self._gated(call, calls, wall_s, telemetry)
        return Timing(wall_s, cpu_s, device_s, False, held, 0.0, read, wall_s)


class NoSync(VirtualGpu):
    """Waits for nothing."""

    def synchronize(self) -> None:
        pass


class OtherStreamSync(VirtualGpu):
    """Waits for the main stream, and not for the one that works."""

    def synchronize(self) -> None:
        self._now_s = max(self._now_s, self._free_at_s["main"])


class OtherStreamEvents(VirtualGpu):
    """Its events are recorded in a stream in which nothing happens."""

    def record_event(self) -> _Event:
        return _Event(max(self._now_s, self._free_at_s.get("other", 0.0)))


class Milliseconds(VirtualGpu):
    """Event times are in milliseconds, as CUDA gives them, and taken for seconds."""

    def elapsed_s(self, start: Any, end: Any) -> float:
        return 1e3 * super().elapsed_s(start, end)


class NotANumber(VirtualGpu):
    """A driver that answers with NaN."""

    def elapsed_s(self, start: Any, end: Any) -> float:
        return float("nan")


class Throttled(VirtualGpu):
    """The driver reports throttling in every third reading."""

    readings = 0

    def reading(self) -> dict[str, Any]:
        self.readings += 1
        self.throttled = self.readings % 3 == 0
        return super().reading()


@functools.cache
def said(arms: tuple[str, ...], make: Callable[[], VirtualGpu] = VirtualGpu, patch: Patch | None = None) -> list[str]:
    """The flags of one speed comparison of `plain` with others."""
    return flags(measured(arms, ["fps"], make=make, patch=patch))


def fault(
    name: str, seeded: str, effect: str, caught: str, says: str, arm: str = "half", *, clean: str | None = None,
    make: Callable[[], VirtualGpu] = VirtualGpu, patch: Patch | None = None, clean_patch: Patch | None = None, reference: str = "plain",
) -> Fault:
    """A fault of `arm`, of the device that `make` makes or of the harness as `patch` leaves it; its twin has none of these."""
    clean_make = VirtualCpu if make is VirtualCpu else VirtualGpu
    return Fault(
        name, "timing", seeded, effect, caught, says, lambda: said((reference, arm), make, patch),
        lambda: said(("plain", clean or "half"), clean_make, clean_patch),
    )


# Harnesses, patched ---------------------------------------------------------------------------------------------------------------


def _copies(patches: Any) -> None:
    """New inputs are copied to the device: 30 ms of work are pending when the next block begins."""
    renew = speed_worker.NewInputs.renew

    def copied(self: Any, blocks: Any = None) -> Any:
        allowed = renew(self, blocks)
        models.DEVICE.launch(0.03)
        return allowed

    patches.setattr(speed_worker.NewInputs, "renew", copied)


def _no_warm_up(patches: Any) -> None:
    def none(call: Any, device: Any, plan: Any, sample: Any, tell: Any) -> float:
        sample.steady = True
        return sample.first_call_s

    patches.setattr(speed, "_warm_up", none)


def _gradients(patches: Any) -> None:
    arm = speed_worker._arm

    def recording(*given: Any) -> Any:
        made = arm(*given)
        if made.name == "half":
            made.inference_mode = contextlib.nullcontext
        return made

    patches.setattr(speed_worker, "_arm", recording)


def _garbage_not_held(patches: Any) -> None:
    @contextlib.contextmanager
    def not_held() -> Iterator[None]:
        gc.freeze()  # and stays so: else each collection that a test waits for looks at everything pytest has loaded
        yield

    patches.setattr(speed, "garbage_held", not_held)


def _built_in_order(patches: Any) -> None:
    patches.setattr(speed_worker, "construction_order", lambda task: task.architectures)


def _batch_of_one(patches: Any) -> None:
    conditions = speed_worker._run_conditions
    patches.setattr(speed_worker, "_run_conditions", lambda task: {**conditions(task), "batch": 1})


def _undivided(patches: Any) -> None:
    """A block's time is taken for that of one forward."""
    keep = speed._keep

    def whole(sample: Any, timing: Any) -> None:
        keep(sample, timing)
        sample.wall_s[-1] = timing.wall_s

    patches.setattr(speed, "_keep", whole)


def _given_twice(patches: Any) -> None:
    """What a component calls in others is counted as its own as well."""
    keep = component_time._keep_stamped

    def twice(found: Any, watch: Any, spans: Any, held: Any) -> None:
        keep(found, watch, spans, held)
        first = next(iter(found.components.values()))
        for clock, times in first.items():
            times[-1] += found.instrumented[clock][-1]

    patches.setattr(component_time, "_keep_stamped", twice)


def _by_component(patch: Patch | None = None) -> list[str]:
    return flags(measured(["plain"], [COMPONENT_TIME], patch=patch))


FAULTS = (
    fault("no end sync", "the wall clock is read right after the last launch", "40 ms read as 2 ms; 4x to 45x in the field", AUDIT,
          r"the clock was read before the work was done", make=functools.partial(NoEndSync, launch_s=2e-3)),
    fault("no start sync", "synchronize() returns at once while inputs are still being copied", "30 ms of a copy in the first block",
          "the device must be idle before the clock is read", r"still busy before it was timed", make=NoSync, patch=_copies,
          clean_patch=_copies),
    fault("sync on another stream", "synchronize() waits for a stream the work is not on", "40 ms read as 10 ms",
          "the device must be idle after the clock is read", r"still busy after it was timed", "side_stream",
          make=OtherStreamSync, clean="side_stream_joined"),
    fault("side-stream work", "a model works on a stream of its own and does not join it", "40 ms of device time read as 10 ms",
          "streams that go on after the timed one make the row invalid", r"work on other streams is not in it", "side_stream",
          clean="side_stream_joined"),
    fault("events on the wrong stream", "events are recorded in an idle stream", "40 ms of device time read as 0.005 ms",
          "work that goes on after the last event makes the row invalid", r"work on other streams is not in it", make=OtherStreamEvents),
    fault("lazy output", "a model returns tensors that compute when somebody looks", "any time read as 0", CHECK,
          r"must be a plain tensor, whose numbers are there", "lazy"),
    fault("memoised output", "a model remembers what it answered to inputs it has seen", "40 ms read as 0.1 ms",
          "time on the same inputs is held against time on new ones", r"times as long on inputs it has not seen", "memoised"),
    fault("zero warm-up", "the harness times from the first call on and calls that steady", "first rounds up to 2.3x too slow", AUDIT,
          r"called steady and no warm-up run was made", "warms_up", patch=_no_warm_up, clean="warms_up"),
    fault("a function of torch replaced", "a model puts one more wrapper around a function of torch at each call",
          "everything beside it runs something else, and ever longer", "torch's functions are held against those before a first forward",
          r"replaces torch\.nn\.functional\.relu for everything", "wraps"),
    Fault("a component's time given twice", "timing", "the time of what a component calls in others stays its own as well",
          "shares that add up to more than the forward", AUDIT, r"its components take", lambda: _by_component(_given_twice), _by_component),
    fault("recompile in the window", "a model compiles again while it is being timed", "7 of 10 rounds 4x too slow",
          "a level that changes inside a process is noted", r"its speed changed while it was timed", "recompiles"),
    fault("one 100x outlier", "one call takes 100 times as long", "the mean is 10x too high, the median the same",
          "rounds above ten times the median are noted", r"rounds took more than 10 times the median", "outlier"),
    fault("cudnn.benchmark in one arm", "a model turns it on inside its forward", "other kernels for one arm only",
          "conditions inside a forward are held against the reference's", r"cudnn\.benchmark is True", "cudnn_benchmark"),
    fault("TF32 in one arm", "a model lowers the float32 matmul precision inside its forward",
          "several times the matmul rate, 10 bits of mantissa",
          "conditions inside a forward are held against the reference's", r"float32 matmul precision is high", "tf32"),
    fault("train mode in one arm", "a model cannot be put into eval mode", "dropout and batch statistics run in one arm only",
          "conditions of both arms are held against each other", r"training is True", "training"),
    fault("gradients on in one arm", "the harness runs one arm outside inference mode", "a graph is recorded in one arm only", CHECK,
          r"require gradients", patch=_gradients),
    fault("another dtype in one arm", "a model computes in bfloat16 inside and answers in float32", "half the work of the other arm",
          "conditions inside a forward are held against the reference's", r"autocast on cpu is bfloat16|differ from a float32",
          "half_precision"),
    fault("another shape in one arm", "one arm is given half the batch", "2x", CHECK, r"of shape \[1, ", "one_image"),
    fault("host copy in one arm", "a model copies its inputs from pageable memory at each call", "25 % more, none of it the model's",
          "the gate behind which work is queued does not hold", r"launch cost may have entered the device time", "from_host"),
    fault("thread count changed mid-run", "a model gives itself another thread while it is timed", "what comes after is up to 2x faster",
          "conditions after a block are held against those before", r"changes threads from 1 to 2", "threads"),
    fault("clock drift between arms", "the chip's clock is 6 % lower whenever one arm runs", "6 %",
          "clocks of the arms more than 1 % apart make the row invalid", r"times the candidate's clock", "other_clock",
          clean="plain_again"),
    fault("throttled third", "the driver reports throttling in a third of the samples", "10 to 30 %",
          "more than 1 % throttled samples make the row invalid", r"the driver throttled \d+ of", make=Throttled),
    fault("neighbour in one arm", "the scheduler takes the CPU away in each forward of one arm", "10 % of wall time",
          "CPU time and mean wall time are two hypotheses; where they differ the row says so", r"by mean wall time", "neighbour",
          make=VirtualCpu, clean="plain_again"),
    fault("garbage collected in one arm", "the harness leaves Python's collector on", "5 ms in every forward of one arm",
          "collections inside blocks are counted and noted", r"garbage was collected \d+ times", "garbage", patch=_garbage_not_held,
          clean="garbage"),
    fault("1-ms timer", "the wall clock moves in steps of 1 ms", "2.5 % of 40 ms, all of 0.4 ms", "the clock's step is measured first",
          r"moves in steps of 1 ms", make=functools.partial(VirtualGpu, tick_s=1e-3, clock_read_s=1e-6)),
    fault("wrong divisor, batch", "frames per second divide by a batch of 1 instead of 2", "2x", AUDIT,
          r"divides by a batch of 1 and the workload's is 2", patch=_batch_of_one),
    fault("wrong divisor, block", "a block's time is taken for that of one forward", "as many times too slow as a block has forwards",
          AUDIT,
          r"a time has the wrong unit or divisor", "short", patch=_undivided, clean="short"),
    fault("milliseconds for seconds", "event times in ms are taken for s", "1000x", AUDIT, r"the clock was read before the work was done",
          make=Milliseconds),
    fault("NaN as a time", "the driver answers with NaN", "a mean of NaN, or a row sorted anywhere", AUDIT,
          r"device_s holds .* no finite number",
          make=NotANumber),
    fault("identical models told apart", "whatever is built second is 5 % slower, and the harness always builds in the same order",
          "5 % between equals", "the control arm, the reference a second time, makes the table invalid",
          r"this machine tells identical models apart", reference="second_is_slower", patch=_built_in_order),
)
