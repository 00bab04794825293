"""Does a measurement contradict itself? Numbers that were measured independently of each other are held against each other.

A harness that forgets to wait for the device, divides by the wrong number or reads the wrong counter still writes plausible numbers; what
gives it away is that they do not fit together: wall time below device time, rounds longer than the budget they were charged to, a peak
smaller than the outputs that are alive at its end. Only what cannot happen is refused, never what is merely unusual. No torch, no clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any

from humar_bench.records import fields, schema

Measured = Mapping[str, Any]
Facts = Mapping[str, Any]

SLACK_S = 20e-6  # a few readings of clocks and events beside a block
TIME_SLACK = 0.05  # two passes of the same work differ by noise; below device time by more than this, wall time did not wait
SPENT_SLACK = 1.01  # a block lies inside the time that is charged to the budget
UNSPENT_SHARE = 0.1  # of the time charged, at least this was timed on a device without gates and telemetry
CPU_SLACK = 1.25  # of wall time x cores: the system books CPU time in ticks
POWER_FACTOR, ROUNDS_POWER_FACTOR = 3.0, 10.0  # the energy window's own power reading, an average; readings while others ran too
WINDOW_FACTOR = 3.0  # forwards back to back against timed ones, either way
CONTEXT_BYTES = 4 * 2**30  # a driver's context and its libraries on a device take less than this
SUM_SHARE, SUM_BYTES = 0.01, 4096  # parts of a peak add up to it within 1 % or a page
FOOTPRINT_BYTES, FOOTPRINT_SHARE = 64 * 2**20, 0.25  # a forward that takes this much must show in the process's own footprint
OKS_SLACK = 1e-4  # OKS of pictures are kept with 6 digits
PER_ROUND = ("cpu_s", "device_s", "preempted", "gate_held", "stray_s", "enqueue_s", "round_telemetry")


def contradictions(measure: str, measured: Measured, workload: Facts | None = None, environment: Facts | None = None) -> list[str]:
    """One sentence part for each thing in a record that cannot be; empty for a sound one. What a record does not hold is not asked."""
    check = _CHECKS.get(measure)
    if check is None:
        return []
    if found := fields.faults(measured, schema.MEASURED[measure], whole=False):
        return found
    try:
        return list(check(measured, workload or {}, environment or {}))
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError) as error:
        return [f"its values cannot be read ({type(error).__name__}: {error})"]


# Speed ----------------------------------------------------------------------------------------------------------------------------


def _fps(measured: Measured, workload: Facts, environment: Facts) -> Iterator[str]:
    if not measured.get("wall_s"):
        return
    yield from _rounds(measured)
    yield from _against_device(measured)
    yield from _against_budget(measured)
    yield from _against_cores(measured, environment)
    yield from _energy(measured)
    if "batch" in measured and workload.get("batch") not in (None, measured["batch"]):
        yield f"it divides by a batch of {measured['batch']} and the workload's is {workload['batch']}"
    if measured.get("steady") and measured.get("warmup_runs") == 0:
        yield "it is called steady and no warm-up run was made"


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _rounds(measured: Measured) -> Iterator[str]:
    rounds = len(measured["wall_s"])
    for name in PER_ROUND:
        if measured.get(name) is not None and len(measured[name]) != rounds:
            yield f"{name} has {len(measured[name])} values for {rounds} rounds"


def _against_device(measured: Measured) -> Iterator[str]:
    """The host waits at least as long as the device works; and no longer than it launches, the device works and other streams go on."""
    device = measured.get("device_s")
    if not device:
        return
    calls = measured.get("calls_per_block") or 1
    wall_s, device_s = median(measured["wall_s"]), median(device)
    if device_s * (1 - TIME_SLACK) > wall_s + SLACK_S / calls:
        yield (
            f"the device worked {1e3 * device_s:.4g} ms a forward and the host waited {1e3 * wall_s:.4g} ms: "
            "the clock was read before the work was done"
        )
    if measured.get("enqueue_s"):
        most_s = median(measured["enqueue_s"]) + device_s + median(measured.get("stray_s") or [0.0])
        if wall_s * (1 - TIME_SLACK) > most_s + 10 * SLACK_S / calls:
            yield (
                f"a forward took {1e3 * wall_s:.4g} ms, and launching it and the device's own time make {1e3 * most_s:.4g} ms: "
                "the events do not enclose its work"
            )


def _against_budget(measured: Measured) -> Iterator[str]:
    """All blocks together fit into the time that was charged for them; where nothing else is charged, they are a good part of it."""
    spent_s = measured.get("spent_s")
    if not spent_s:
        return
    calls = measured.get("calls_per_block") or 1
    varied = measured.get("varied_wall_s") or []
    varied_calls = measured.get("varied_calls") or [calls] * len(varied)
    if len(varied_calls) != len(varied):
        yield f"varied_calls has {len(varied_calls)} values for {len(varied)} blocks on new inputs"
        return
    timed_s = calls * sum(measured["wall_s"]) + sum(number * each for number, each in zip(varied_calls, varied, strict=True))
    blocks = len(measured["wall_s"]) + len(measured.get("varied_wall_s") or [])
    if timed_s > SPENT_SLACK * spent_s + blocks * SLACK_S:
        yield f"its forwards add up to {timed_s:.4g} s and were made within {spent_s:.4g} s: a time has the wrong unit or divisor"
    elif not measured.get("device_s") and timed_s < UNSPENT_SHARE * spent_s and spent_s > 100 * blocks * SLACK_S:
        yield f"its forwards add up to {timed_s:.4g} s of the {spent_s:.4g} s they took: a time has the wrong unit or divisor"


def _against_cores(measured: Measured, environment: Facts) -> Iterator[str]:
    cores = environment.get("cores")
    cpu_s, wall_s = sum(measured.get("cpu_s") or []), sum(measured["wall_s"])
    if cores and cpu_s * (measured.get("calls_per_block") or 1) > 0.1 and cpu_s > CPU_SLACK * cores * wall_s:
        yield f"it used {cpu_s:.4g} s of CPU time in {wall_s:.4g} s on {cores} cores: a time has the wrong unit or divisor"


def _energy(measured: Measured) -> Iterator[str]:
    """The counter's joules against the driver's watts, and the window's forwards against the timed ones."""
    energy = measured.get("energy")
    if not energy or energy.get("reason"):
        return
    names = ("joules", "images", "seconds", "step_s", "per_image_j", "idle_w")
    if wrong := [name for name in names if not _is_time(energy.get(name)) or (name != "idle_w" and energy[name] == 0)]:
        yield f"its energy's {wrong[0]} is {energy.get(wrong[0])!r}; it must be a number above 0"
        return
    power_w = energy["joules"] / energy["seconds"]
    if abs(energy["per_image_j"] * energy["images"] / energy["joules"] - 1) > 1e-6:
        yield f"{energy['per_image_j']:.4g} J an image are not {energy['joules']:.4g} J over {energy['images']} images"
    rounds = [each["power_w"] for each in measured.get("round_telemetry") or [] if each and each.get("power_w")]
    for told_w, factor, when in ((energy.get("power_w"), POWER_FACTOR, "then"),
                                 (median(rounds) if rounds else None, ROUNDS_POWER_FACTOR, "while it was timed")):
        if told_w and not 1 / factor <= power_w / told_w <= factor:
            yield (
                f"its energy of {energy['joules']:.4g} J in {energy['seconds']:.4g} s makes {power_w:.4g} W and the driver read "
                f"{told_w:.4g} W {when}: an energy has the wrong unit or window"
            )
    forward_s = energy["seconds"] * (measured.get("batch") or 1) / energy["images"]
    least_s, most_s = median(measured.get("device_s") or measured["wall_s"]) / WINDOW_FACTOR, median(measured["wall_s"]) * WINDOW_FACTOR
    if not least_s <= forward_s <= most_s:
        yield (
            f"its energy window made a forward in {1e3 * forward_s:.4g} ms and the timing in {1e3 * median(measured['wall_s']):.4g} ms: "
            "its images are miscounted"
        )


# Time by component ----------------------------------------------------------------------------------------------------------------


def _component_time(measured: Measured, workload: Facts, environment: Facts) -> Iterator[str]:
    """Every clock has one time a round of every component, and all components are the whole instrumented forward."""
    rounds, components = measured["rounds"], measured["components"]
    for clock in measured["clocks"]:
        kept = {name: times[clock] for name, times in components.items()}
        kept |= {"the instrumented forward": measured["instrumented"][clock], "the forward left alone": measured["plain"][clock]}
        for name, times in kept.items():
            if len(times) != rounds or not all(map(_is_time, times)):
                yield f"{clock} of {name} holds {len(times)} values for {rounds} rounds, or one that is no time"
                return
        for index, whole in enumerate(measured["instrumented"][clock]):
            parts = sum(times[clock][index] for times in components.values())
            if abs(parts - whole) > SUM_SHARE * whole + SLACK_S:
                yield f"in round {index} its components take {1e3 * parts:.4g} ms by {clock} and the whole forward {1e3 * whole:.4g} ms"
                return
    yield from _other_batch(measured, workload)


def _other_batch(measured: Measured, workload: Facts) -> Iterator[str]:
    if "batch" in measured and workload.get("batch") not in (None, measured["batch"]):
        yield f"it was timed on a batch of {measured['batch']} and the workload's is {workload['batch']}"


def _end_to_end(measured: Measured, workload: Facts, environment: Facts) -> Iterator[str]:
    """Every stage has one time a round and is in a line, and the stages of a round are its latency."""
    stages, latency_s = measured["stages"], measured["latency_s"]
    if not latency_s or not measured["overlapped_s"]:
        yield "it holds no time"
        return
    if set(stages) != set(measured["lines"]):
        yield f"its stages are {', '.join(stages)} and its lines name {', '.join(measured['lines'])}"
    for name, times in stages.items():
        if len(times) != len(latency_s):
            yield f"{name} holds {len(times)} values for {len(latency_s)} rounds"
            return
    for index, whole in enumerate(latency_s):
        parts = sum(times[index] for times in stages.values())
        if abs(parts - whole) > SUM_SHARE * whole + SLACK_S:
            yield f"in round {index} its stages take {1e3 * parts:.4g} ms and the whole {1e3 * whole:.4g} ms"
            return
    longest_s = max(sum(min(stages[name]) for name, own in measured["lines"].items() if own == line) for line in measured["lines"].values())
    if min(measured["overlapped_s"]) < UNSPENT_SHARE * longest_s:
        fastest_s = min(measured["overlapped_s"])
        yield f"overlapped, a picture takes {1e3 * fastest_s:.4g} ms, and one of the lines alone {1e3 * longest_s:.4g} ms"
    yield from _other_batch(measured, workload)


# Parameters -----------------------------------------------------------------------------------------------------------------------


def _params(measured: Measured, workload: Facts, environment: Facts) -> Iterator[str]:
    keys = ("total", "trainable", "frozen", "buffers", "listed", "param_bytes", "buffer_bytes")
    if not all(key in measured for key in keys):
        return
    if measured["trainable"] + measured["frozen"] != measured["total"]:
        yield f"{measured['trainable']} trainable and {measured['frozen']} frozen parameters are not its total of {measured['total']}"
    if measured["listed"] < measured["total"]:
        yield f"its names list {measured['listed']} parameters and it counts {measured['total']}"
    by_component = sum(measured["components"].values())
    if by_component != measured["total"]:
        yield f"its components add up to {by_component} parameters and its total is {measured['total']}"
    if modules := measured.get("modules"):
        own = sum(each["own"] for each in modules)
        if own != measured["total"]:
            yield f"its modules add up to {own} parameters and its total is {measured['total']}"
    storage = measured.get("storage_bytes")
    if storage is not None and storage != measured["param_bytes"]:
        yield f"its parameters are counted as {measured['param_bytes']} bytes and lie on {storage} bytes of memory"


# FLOPs ----------------------------------------------------------------------------------------------------------------------------


def _flops(measured: Measured, workload: Facts, environment: Facts) -> Iterator[str]:
    keys = ("matmul_flops", "macs", "second_tier_flops")
    if not all(key in measured for key in keys):
        return
    if measured["macs"] != measured["matmul_flops"] // 2:
        yield f"{measured['macs']} multiply-adds are not half of {measured['matmul_flops']} FLOPs"
    for key in ("matmul_flops", "second_tier_flops"):
        for name, parts in (("components", measured["components"].values()), ("operators", measured["operators"]),
                            ("modules", (measured.get("modules") or {}).values())):
            total = sum(part[key] for part in parts)
            if parts and total != measured[key]:
                yield f"the {key} of its {name} add up to {total} and its total is {measured[key]}"
    if "second_tier" in measured and sum(measured["second_tier"].values()) != measured["second_tier_flops"]:
        yield "the categories of its second tier do not add up to their total"
    if measured.get("batch") is not None and workload.get("batch") not in (None, measured["batch"]):
        yield f"it was counted on a batch of {measured['batch']} and the workload's is {workload['batch']}"


# Memory ---------------------------------------------------------------------------------------------------------------------------


def _memory(measured: Measured, workload: Facts, environment: Facts) -> Iterator[str]:
    keys = ["weights_bytes", "buffers_bytes", "inputs_bytes", "outputs_bytes", "peak_bytes"]
    if measured.get("allocator_bytes") is not None or measured.get("difference_bytes") is not None:  # else only predicted, by a study
        keys.append("allocator_bytes")
    if not all(key in measured for key in keys):
        return
    if measured["outputs_bytes"] > measured["peak_bytes"]:
        yield (
            f"its peak is {measured['peak_bytes']} bytes and the outputs alone, alive at the end, are {measured['outputs_bytes']}: "
            "it was not read around the forward"
        )
    predicted, difference, workspace = (measured.get(name) for name in ("predicted_bytes", "difference_bytes", "workspace_bytes"))
    if None not in (predicted, difference) and predicted + (workspace or 0) + difference != measured["allocator_bytes"]:
        yield "prediction, workspace and difference do not add up to the allocator's peak"
    cuda = measured.get("cuda")
    if cuda:
        yield from _on_device(measured, cuda)
        return
    if workspace is not None:
        parts = sum(measured["by_component"].values()) + workspace
        if abs(parts - measured["peak_bytes"]) > max(SUM_BYTES, SUM_SHARE * measured["peak_bytes"]):
            yield f"what is alive at the peak and the workspace are {parts} bytes and the peak is {measured['peak_bytes']}"
    resident, start = measured.get("resident_bytes"), measured.get("resident_start_bytes")
    needed = sum(measured[name] for name in ("weights_bytes", "buffers_bytes", "inputs_bytes", "peak_bytes"))
    if None not in (resident, start) and needed >= FOOTPRINT_BYTES and resident - start < FOOTPRINT_SHARE * needed:
        yield (
            f"it needs {needed} bytes and the process's footprint grew by {resident - start}: "
            f"the {resident} bytes that stand there are not its own"
        )


def _on_device(measured: Measured, cuda: Measured) -> Iterator[str]:
    allocated, requested, reserved = (cuda[f"peak_{name}_bytes"] for name in ("allocated", "requested", "reserved"))
    if requested > allocated:
        yield f"{requested} bytes were requested and only {allocated} allocated for them"
    there = sum(measured[name] for name in ("weights_bytes", "buffers_bytes", "inputs_bytes"))
    if allocated + there > reserved:
        yield (
            f"weights, inputs and the allocated peak are {allocated + there} bytes and no more than {reserved} were ever reserved: "
            "the peak was not read above what was there"
        )
    if cuda.get("start_allocated_bytes"):
        yield f"{cuda['start_allocated_bytes']} bytes were allocated on the device before its model was built: something else is alive"
    process = cuda.get("nvml_process_bytes")
    if process is not None and process - reserved > CONTEXT_BYTES:
        yield f"the driver says {process} bytes for a process that reserved {reserved}: another process is counted with it"


# Training -------------------------------------------------------------------------------------------------------------------------


def _training(measured: Measured, workload: Facts, environment: Facts) -> Iterator[str]:
    """A curve goes on in pictures and seconds to the end of the run, and its last mean OKS is that of the pictures it lists."""
    curve, score, oks = measured["curve"], measured["score"], measured["oks"]
    if len(score) != len(oks) or not score:
        yield f"it lists {len(score)} scores and {len(oks)} OKS; there must be one of each a picture"
        return
    if measured.get("picture") is not None and len(measured["picture"]) != len(oks):
        yield f"it numbers {len(measured['picture'])} pictures for {len(oks)} entries"
    if workload.get("evaluation_pictures") and len(oks) > workload["evaluation_pictures"]:
        yield f"it lists {len(oks)} pictures and was to be evaluated on {workload['evaluation_pictures']}"
    for name in ("pictures", "wall_s", "cpu_s"):
        values = [each[name] for each in curve]
        if any(after < before for before, after in zip(values, values[1:], strict=False)):
            yield f"the {name} of its curve go back"
    if not curve:
        if measured["pictures"]:
            yield f"it was trained on {measured['pictures']} pictures and has no curve"
        return
    last = curve[-1]
    if last["pictures"] != measured["pictures"]:
        yield f"its curve ends after {last['pictures']} pictures and it was trained on {measured['pictures']}"
    mean = sum(oks) / len(oks)
    if abs(mean - last["oks"]) > OKS_SLACK:
        yield f"the OKS of its pictures have the mean {mean:.4f} and its curve ends at {last['oks']:.4f}"
    cores = environment.get("cores")
    if cores and last["cpu_s"] > CPU_SLACK * cores * last["wall_s"] + 1:
        yield f"it used {last['cpu_s']:.4g} s of CPU time in {last['wall_s']:.4g} s on {cores} cores: a time has the wrong unit"


_CHECKS: dict[str, Callable[[Measured, Facts, Facts], Iterator[str]]] = {
    "params": _params, "flops": _flops, "fps": _fps, "component_time": _component_time, "end_to_end": _end_to_end,
    "memory": _memory,
    "training": _training,
}
