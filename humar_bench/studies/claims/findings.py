"""What is looked at for a claim: functions that find one measured value, or raise Missing. No torch, no printing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from humar_bench.judging import statistics
from humar_bench.records.record import Run
from humar_bench.studies.claims.evidence import CANDIDATE, ORIGINAL, Evidence, Missing
from humar_bench.table import times

SPEED_CONFIDENCE = 0.9  # of the interval: each of its ends is passed with 5 %
QUADRATIC = 0.005  # of what grows: below it a quadratic part is the rounding of odd sizes
M, GB = 1e6, 1e9
_HEADS = ("pose_embed", "class_embed", "bbox_embed", "half_pose_ref_point_head")
_WITHIN = re.compile(r"within|graph", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """One measured value of a claim's unit; `low` and `high` where it is known only within an interval. `wall` must pass too."""

    value: float
    label: str = ""
    low: float | None = None
    high: float | None = None
    wall: float | None = None
    text: str = ""
    undecided: str = "the times do not settle it; use a quiet machine or a longer --budget"


LEVELS = ("4 levels", "3 levels")


def _modules(evidence: Evidence, side: str, levels: str) -> dict[str, int]:
    return {each["path"]: each["subtree"] for each in evidence.measured("params", levels, side)["modules"]}


def _part(modules: Mapping[str, int], path: str) -> int:
    if path not in modules:
        raise Missing(f"the model has no module named {path!r}")
    return modules[path]


def _decoder_layers(modules: Mapping[str, int]) -> int:
    """The decoder without its heads and its positional MLP, which the description counts as additional."""
    return _part(modules, "decoder") - sum(modules.get(f"decoder.{name}", 0) for name in _HEADS)


def _separable(modules: Mapping[str, int]) -> dict[str, int]:
    """Modules that are a depthwise convolution and a pointwise one, by their names."""
    found = {}
    for path, count in modules.items():
        children = {each[len(path) + 1 :] for each in modules if path and each.startswith(f"{path}.")}
        if children and all(any(word in child.lower() for child in children) for word in ("depthwise", "pointwise")):
            found[path] = count
    innermost = {path: count for path, count in found.items() if not any(each.startswith(f"{path}.") for each in found)}
    if not innermost:
        raise Missing("no separable convolution was recognised by its names (depthwise, pointwise)")
    return innermost


def _separable_in(modules: Mapping[str, int], path: str) -> int:
    try:
        return sum(count for each, count in _separable(modules).items() if each.startswith(f"{path}."))
    except Missing:
        return 0


def _within(modules: Mapping[str, int]) -> int:
    """All attention among the keypoints of an instance, by its modules' names."""
    named = {path: count for path, count in modules.items() if _WITHIN.search(path.rpartition(".")[2]) and "norm" not in path}
    outermost = [count for path, count in named.items() if not any(path.startswith(f"{each}.") for each in named)]
    if not sum(outermost):
        raise Missing("no attention within instances was recognised by its name (within, graph)")
    return sum(outermost)


_PARTS: dict[str, Callable[[Mapping[str, int]], int]] = {
    "whole": lambda modules: modules[""],
    "encoder": lambda modules: _part(modules, "encoder"),
    "encoder layers": lambda modules: _part(modules, "encoder") - _separable_in(modules, "encoder"),
    "decoder": lambda modules: _part(modules, "decoder"),
    "decoder layers": _decoder_layers,
    "rest": lambda modules: modules[""] - _part(modules, "encoder") - _part(modules, "decoder"),
    "additional": lambda modules: modules[""] - _part(modules, "encoder") - _decoder_layers(modules),
    "separable": lambda modules: sum(_separable(modules).values()),
}


def parameters(*parts: str, side: str = CANDIDATE, levels: Sequence[str] = LEVELS) -> Callable[[Evidence], list[Finding]]:
    def look(evidence: Evidence) -> list[Finding]:
        names = {part: "" if len(parts) == 1 else f"{part}, " for part in parts}
        return [
            Finding(_PARTS[part](_modules(evidence, side, level)) / M, f"{names[part]}{level}") for part in parts for level in levels
        ]

    return look


def parameter_share(evidence: Evidence) -> list[Finding]:
    totals = {level: [_modules(evidence, side, level)[""] for side in (ORIGINAL, CANDIDATE)] for level in LEVELS}
    return [Finding(_percent_less(*pair), level) for level, pair in totals.items()]


def _percent_less(before: float, after: float) -> float:
    return 100 * (1 - after / before)


def separable_ratio(evidence: Evidence) -> list[Finding]:
    width = evidence.record("params", "4 levels", CANDIDATE).asked["hidden_dim"]
    standard = 9 * width * width + width
    ratios = {standard / count for count in _separable(_modules(evidence, CANDIDATE, "4 levels")).values()}
    return [Finding(each, f"3x3, {width} to {width} channels") for each in sorted(ratios)]


def within_share(evidence: Evidence) -> list[Finding]:
    counts = [_within(_modules(evidence, side, "4 levels")) for side in (ORIGINAL, CANDIDATE)]
    return [Finding(_percent_less(*counts), f"{counts[0]:,} to {counts[1]:,}, all iterations")]


def built(name: str, side: str = CANDIDATE) -> Callable[[Evidence], list[Finding]]:
    return lambda evidence: [Finding(evidence.built(side, name))]


def mlp_ratio(side: str) -> Callable[[Evidence], list[Finding]]:
    return lambda evidence: [Finding(evidence.built(side, "dim_feedforward") / evidence.built(side, "hidden_dim"))]


def did(name: str, side: str = CANDIDATE) -> Callable[[Evidence], list[Finding]]:
    return lambda evidence: [Finding(evidence.did(side, name))]


def two_stage(evidence: Evidence) -> list[Finding]:
    kept = evidence.did(CANDIDATE, "start_distance") <= 1e-5 and evidence.did(CANDIDATE, "proposals_move") > 0
    return [Finding(float(kept), text="yes" if kept else "no")]


def interface(evidence: Evidence) -> list[Finding]:
    told = evidence.behaviour.get(CANDIDATE, {"error": "the probe was not made"})
    wrong = " returned " in told.get("error", "")
    if "error" in told and not wrong:
        raise Missing(told["error"])
    return [Finding(float(not wrong), text=f"no: {told['error']}" if wrong else "yes")]


def growth(over: str, component: str, side: str = CANDIDATE) -> Callable[[Evidence], list[Finding]]:
    """The order in which exact FLOPs grow, from three amounts of work, each twice the one before: a + b x + c x^2 through all three."""

    letter = "K" if over == "keypoints" else "N"

    def look(evidence: Evidence) -> list[Finding]:
        flops = [_component_flops(evidence.measured("flops", f"{over} x{factor}", side), component) for factor in (1, 2, 4)]
        first, second = flops[1] - flops[0], flops[2] - flops[1]
        if first <= 0 or second <= 0:
            return [Finding(0, text="O(1)")]
        exponent, share = math.log2(second / first), 4 * (second - 2 * first) / (4 * first + second)  # c (4x)^2 of b 4x + c (4x)^2
        if share < QUADRATIC:
            return [Finding(1, text=f"O({letter}), exponent {exponent:.2f}")]
        return [Finding(2, text=f"O({letter}^2), {100 * share:.0f} % of the growth is quadratic, exponent {exponent:.2f}")]

    return look


def _component_flops(measured: Mapping[str, Any], component: str) -> int:
    """Of a component and what is local in it; of the whole forward where there is no such component."""
    names = {"encoder": ("encoder", "local convolution")}.get(component, (component,))
    parts = measured["components"]
    chosen = [parts[name] for name in names if name in parts] if component in parts else list(parts.values())
    return sum(each["matmul_flops"] + each["second_tier_flops"] for each in chosen)


def speed(evidence: Evidence) -> list[Finding]:
    if not evidence.timed:
        raise Missing("not measured (--no-time)")
    return [_speed_at(evidence, queries) for queries in evidence.queries]


def _speed_at(evidence: Evidence, queries: int) -> Finding:
    """How many times as fast at so many queries."""
    point = f"{queries} queries"
    for side in (ORIGINAL, CANDIDATE):
        evidence.record("fps", point, side)
    sides = {side: evidence.points[point].select(measure="fps", architecture=name, status="ok") for side, name in evidence.sides.items()}
    return speed_between(sides[ORIGINAL], sides[CANDIDATE], point)


def speed_between(before: Run, after: Run, point: str) -> Finding:
    """How many times as fast, by the time that waiting disturbs least, with an interval over processes; and by wall time."""
    own = [{record.process: record.measured for record in records} for records in (before, after)]
    both = sorted(own[0].keys() & own[1].keys())
    if not both:
        raise Missing("no process timed both")
    key = "device_s" if own[0][both[0]].get("device_s") else "cpu_s"
    logs = {each: np.array([statistics.log_ratio(own[0][p][each], own[1][p][each]) for p in both]) for each in (key, "wall_s")}
    value, wall = (float(np.exp(logs[each].mean())) for each in (key, "wall_s"))
    low = high = None
    if len(both) > 1:
        found = statistics.weigh(logs[key], 0.02, SPEED_CONFIDENCE)
        low, high = float(np.exp(found.low)), float(np.exp(found.high))
    interval = "one process, no interval" if low is None else f"{times(low)} to {times(high)}"
    by = "device time" if key == "device_s" else "CPU time"
    return Finding(value, point, 0.0 if low is None else low, math.inf if high is None else high, wall,
                   f"{times(value)} by {by} ({interval}), {times(wall)} by wall time, {point}")


def frames(side: str) -> Callable[[Evidence], list[Finding]]:
    def look(evidence: Evidence) -> list[Finding]:
        found = []
        for queries in evidence.queries:
            record = evidence.record("fps", f"{queries} queries", side)
            if "4050" not in str(record.environment.get("device_label")):
                raise Missing("needs an RTX 4050")
            found.append(Finding(record.measured["batch"] / float(np.median(record.measured["wall_s"])), f"{queries} queries"))
        return found

    return lambda evidence: look(evidence) if evidence.timed else speed(evidence)


def peak_share(evidence: Evidence) -> list[Finding]:
    found = []
    for queries in evidence.queries:
        peaks = [evidence.measured("memory", f"{queries} queries", side)["peak_bytes"] for side in (ORIGINAL, CANDIDATE)]
        found.append(Finding(_percent_less(*peaks), f"{queries} queries"))
    return found


def video_memory(side: str) -> Callable[[Evidence], list[Finding]]:
    def look(evidence: Evidence) -> list[Finding]:
        found = []
        for queries in evidence.queries:
            told = evidence.measured("memory", f"{queries} queries", side)
            if not told.get("cuda"):
                raise Missing("needs a CUDA device")
            found.append(Finding((told["weights_bytes"] + told["buffers_bytes"] + told["peak_bytes"]) / GB, f"{queries} queries"))
        return found

    return look


def accuracy_kept(evidence: Evidence) -> list[Finding]:
    """What the candidate keeps of the original's accuracy, from a study of accuracy."""
    found = evidence.accuracy
    if found is None:
        raise Missing("needs trained models; both carry random weights")
    if found["value"] is None or found["low"] is None:
        raise Missing(f"{found['title']}: {found['reason'].rstrip('.')}")
    value, low, high = (100 * found[name] for name in ("value", "low", "high"))
    text = f"{value:.1f} % ({low:.1f} to {high:.1f} %) of {found['reference']}; {found['title']}"
    return [Finding(value, found["title"], low, high, text=text, undecided="the interval reaches to both sides; more seeds or pictures")]
