"""Every number and order of the published Conv+Attention description, and the measurement that decides it. No torch, no printing.

A claim holds, fails, or cannot be decided here, with the reason: a function of what `evidence.gather` measured alone. Claims about the
original are decided too, but are no fault of a candidate.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from humar_bench.errors import EXIT_DONE, EXIT_FAILED, EXIT_REGRESSION
from humar_bench.judging import statistics
from humar_bench.studies.claims.evidence import CANDIDATE, ORIGINAL, Evidence, Missing
from humar_bench.table import times

HOLDS, FAILS, UNDECIDED = "holds", "fails", "cannot be decided here"
SPEED_CONFIDENCE = 0.9  # of the interval: each of its ends is passed with 5 %
QUADRATIC = 0.005  # of what grows: below it a quadratic part is the rounding of odd sizes
M, GB = 1e6, 1e9
_HEADS = ("pose_embed", "class_embed", "bbox_embed", "half_pose_ref_point_head")
_WITHIN = re.compile(r"within|graph", re.IGNORECASE)


@dataclass(frozen=True)
class Limit:
    """What a measured value must be, after rounding to as many digits as were published."""

    low: float | None = None
    high: float | None = None
    digits: int = 0

    def holds(self, value: float) -> bool:
        value = round(value, self.digits)
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    @property
    def words(self) -> str:
        if self.low == self.high:
            return f"{self.low:g}, rounded to {10**-self.digits:g}"
        if self.low is None:
            return f"at most {self.high:g}, rounded to {10**-self.digits:g}"
        return f"at least {self.low:g}" if self.high is None else f"from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Finding:
    """One measured value of a claim's unit; `low` and `high` where it is known only within an interval. `wall` must pass too."""

    value: float
    label: str = ""
    low: float | None = None
    high: float | None = None
    wall: float | None = None
    text: str = ""


@dataclass(frozen=True)
class Claim:
    """One published number or order. `look` finds what was measured of it, or raises Missing."""

    key: str
    section: str  # of the description
    text: str
    claimed: str
    unit: str
    limit: Limit
    decided_by: str
    look: Callable[[Evidence], list[Finding]]
    side: str = CANDIDATE
    digits: int = 2


@dataclass(frozen=True)
class Verdict:
    claim: Claim
    verdict: str
    measured: str = ""
    why: str = ""
    findings: tuple[Finding, ...] = ()


# What is looked at ------------------------------------------------------------------------------------------------------------------

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


def _parameters(*parts: str, side: str = CANDIDATE, levels: Sequence[str] = LEVELS) -> Callable[[Evidence], list[Finding]]:
    def look(evidence: Evidence) -> list[Finding]:
        names = {part: "" if len(parts) == 1 else f"{part}, " for part in parts}
        return [
            Finding(_PARTS[part](_modules(evidence, side, level)) / M, f"{names[part]}{level}") for part in parts for level in levels
        ]

    return look


def _parameter_share(evidence: Evidence) -> list[Finding]:
    totals = {level: [_modules(evidence, side, level)[""] for side in (ORIGINAL, CANDIDATE)] for level in LEVELS}
    return [Finding(_percent_less(*pair), level) for level, pair in totals.items()]


def _percent_less(before: float, after: float) -> float:
    return 100 * (1 - after / before)


def _separable_ratio(evidence: Evidence) -> list[Finding]:
    width = evidence.record("params", "4 levels", CANDIDATE).asked["hidden_dim"]
    standard = 9 * width * width + width
    ratios = {standard / count for count in _separable(_modules(evidence, CANDIDATE, "4 levels")).values()}
    return [Finding(each, f"3x3, {width} to {width} channels") for each in sorted(ratios)]


def _within_share(evidence: Evidence) -> list[Finding]:
    counts = [_within(_modules(evidence, side, "4 levels")) for side in (ORIGINAL, CANDIDATE)]
    return [Finding(_percent_less(*counts), f"{counts[0]:,} to {counts[1]:,}, all iterations")]


def _built(name: str, side: str = CANDIDATE) -> Callable[[Evidence], list[Finding]]:
    return lambda evidence: [Finding(evidence.built(side, name))]


def _mlp_ratio(side: str) -> Callable[[Evidence], list[Finding]]:
    return lambda evidence: [Finding(evidence.built(side, "dim_feedforward") / evidence.built(side, "hidden_dim"))]


def _did(name: str, side: str = CANDIDATE) -> Callable[[Evidence], list[Finding]]:
    return lambda evidence: [Finding(evidence.did(side, name))]


def _two_stage(evidence: Evidence) -> list[Finding]:
    kept = evidence.did(CANDIDATE, "start_distance") <= 1e-5 and evidence.did(CANDIDATE, "proposals_move") > 0
    return [Finding(float(kept), text="yes" if kept else "no")]


def _interface(evidence: Evidence) -> list[Finding]:
    told = evidence.behaviour.get(CANDIDATE, {"error": "the probe was not made"})
    wrong = " returned " in told.get("error", "")
    if "error" in told and not wrong:
        raise Missing(told["error"])
    return [Finding(float(not wrong), text=f"no: {told['error']}" if wrong else "yes")]


def _growth(over: str, component: str, side: str = CANDIDATE) -> Callable[[Evidence], list[Finding]]:
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


def _speed(evidence: Evidence) -> list[Finding]:
    if not evidence.timed:
        raise Missing("not measured (--no-time)")
    return [_speed_at(evidence, queries) for queries in evidence.queries]


def _speed_at(evidence: Evidence, queries: int) -> Finding:
    """How many times as fast, by the time that waiting disturbs least, with an interval over processes; and by wall time."""
    point = f"{queries} queries"
    for side in (ORIGINAL, CANDIDATE):
        evidence.record("fps", point, side)
    sides = {side: evidence.points[point].select(measure="fps", architecture=name, status="ok") for side, name in evidence.sides.items()}
    own = {side: {record.process: record.measured for record in records} for side, records in sides.items()}
    both = sorted(own[ORIGINAL].keys() & own[CANDIDATE].keys())
    if not both:
        raise Missing("no process timed both")
    key = "device_s" if own[ORIGINAL][both[0]].get("device_s") else "cpu_s"
    logs = {each: np.array([statistics.log_ratio(own[ORIGINAL][p][each], own[CANDIDATE][p][each]) for p in both])
            for each in (key, "wall_s")}
    value, wall = (float(np.exp(logs[each].mean())) for each in (key, "wall_s"))
    low = high = None
    if len(both) > 1:
        found = statistics.weigh(logs[key], 0.02, SPEED_CONFIDENCE)
        low, high = float(np.exp(found.low)), float(np.exp(found.high))
    interval = "one process, no interval" if low is None else f"{times(low)} to {times(high)}"
    by = "device time" if key == "device_s" else "CPU time"
    return Finding(value, point, 0.0 if low is None else low, math.inf if high is None else high, wall,
                   f"{times(value)} by {by} ({interval}), {times(wall)} by wall time, {point}")


def _frames(side: str) -> Callable[[Evidence], list[Finding]]:
    def look(evidence: Evidence) -> list[Finding]:
        found = []
        for queries in evidence.queries:
            record = evidence.record("fps", f"{queries} queries", side)
            if "4050" not in str(record.environment.get("device_label")):
                raise Missing("needs an RTX 4050")
            found.append(Finding(record.measured["batch"] / float(np.median(record.measured["wall_s"])), f"{queries} queries"))
        return found

    return lambda evidence: look(evidence) if evidence.timed else _speed(evidence)


def _peak_share(evidence: Evidence) -> list[Finding]:
    found = []
    for queries in evidence.queries:
        peaks = [evidence.measured("memory", f"{queries} queries", side)["peak_bytes"] for side in (ORIGINAL, CANDIDATE)]
        found.append(Finding(_percent_less(*peaks), f"{queries} queries"))
    return found


def _video_memory(side: str) -> Callable[[Evidence], list[Finding]]:
    def look(evidence: Evidence) -> list[Finding]:
        found = []
        for queries in evidence.queries:
            told = evidence.measured("memory", f"{queries} queries", side)
            if not told.get("cuda"):
                raise Missing("needs a CUDA device")
            found.append(Finding((told["weights_bytes"] + told["buffers_bytes"] + told["peak_bytes"]) / GB, f"{queries} queries"))
        return found

    return look


def _never(why: str) -> Callable[[Evidence], list[Finding]]:
    def look(evidence: Evidence) -> list[Finding]:
        raise Missing(why)

    return look


# The claims -------------------------------------------------------------------------------------------------------------------------


def _claims() -> tuple[Claim, ...]:
    comparison, performance = "Architecture Comparison", "Expected Performance"
    counted = "exact count on the meta device, heads included"
    order = "order of exact FLOPs over three amounts of work"
    probe = "a small forward with padding"
    ratio = "time of one forward, original / candidate, in turn in fresh processes"
    rtx = "images a second on an RTX 4050"
    exact = Limit  # Limit(x, x) is equality after rounding

    def own(key: str, *rest: Any, **more: Any) -> Claim:
        return Claim(key, *rest, **more)

    def theirs(key: str, *rest: Any, **more: Any) -> Claim:
        return Claim(f"original-{key}", *rest, side=ORIGINAL, **more)

    return (
        own("total", comparison, "all parameters", "~5 M", "M", Limit(high=5), counted, _parameters("whole")),
        own("total-range", "Overview", "all parameters", "~3-5 M", "M", Limit(3, 5), counted, _parameters("whole")),
        own("reduction", comparison, "fewer parameters than the original", "81.5 %", "%", Limit(81.5, None, 1), counted, _parameter_share,
            digits=1),
        own("encoder", comparison, "encoder blocks", "~1.5 M", "M", Limit(None, 1.5, 1), counted, _parameters("encoder layers")),
        own("decoder", comparison, "decoder layers, without heads and positional MLP", "~1.2 M", "M", Limit(None, 1.2, 1), counted,
            _parameters("decoder layers")),
        own("convolutions", comparison, "depthwise separable convolutions", "~0.3 M", "M", Limit(None, 0.3, 1), counted,
            _parameters("separable")),
        own("additional", comparison, "everything else: heads, MLPs, embeddings", "~2 M", "M", Limit(None, 2), counted,
            _parameters("additional")),
        own("separable", "Key Innovations 1", "a separable convolution against a standard one", "8-9x fewer", "x", Limit(8, 9, 1),
            "parameters of the built module against 9 C C + C", _separable_ratio),
        own("attention-order", "Key Innovations 2", "encoder over image tokens", "O(N)", "order", Limit(None, 1), order,
            _growth("tokens", "encoder")),
        own("keypoint-attention", "Key Innovations 3", "attention among keypoints, fewer parameters than the original's", "70 %", "%",
            Limit(70), "parameters of within-instance attention in all iterations, each counted once", _within_share, digits=1),
        own("group", "Key Innovations 3", "tokens of an instance", "17+1", "", exact(18, 18), probe, _did("tokens"), digits=0),
        own("heads", "Key Innovations 4", "attention heads", "4", "", exact(4, 4), "model.built", _built("nheads"), digits=0),
        own("mlp-ratio", "Key Innovations 4", "MLP ratio", "2x", "x", exact(2, 2), "model.built", _mlp_ratio(CANDIDATE), digits=0),
        own("encoder-layers", "Key Innovations 4", "encoder blocks", "4", "", exact(4, 4), "model.built", _built("enc_layers"), digits=0),
        own("ffn", "Key Innovations 4", "hidden width of the feed-forward networks", "512", "", exact(512, 512), "model.built",
            _built("dim_feedforward"), digits=0),
        own("decoder-tokens", comparison, "decoder over image tokens", "O(N)", "order", Limit(None, 1), order,
            _growth("tokens", "decoder")),
        own("decoder-queries", "Decoder Architecture", "decoder over queries", "O(N)", "order", Limit(None, 1), order,
            _growth("queries", "decoder")),
        own("decoder-keypoints", comparison, "decoder over keypoints", "O(K^2)", "order", Limit(None, 2), order,
            _growth("keypoints", "decoder")),
        own("interface", "What We Kept", "same outputs: five parts, every shape", "yes", "", exact(1, 1), probe, _interface),
        own("iterations", "What We Kept", "refinements of the points", "6", "", exact(6, 6), probe, _did("iterations"), digits=0),
        own("two-stage", "What We Kept", "refinement starts from proposals of the memory", "yes", "", exact(1, 1), probe, _two_stage),
        own("masks", "What We Kept", "masks honoured: change of visible outputs by noise under the padding", "0", "", Limit(None, 0, 6),
            probe, _did("padding_leak"), digits=6),
        own("speed", performance, "faster", "2-3x", "x", Limit(2, digits=2), ratio, _speed),
        own("speed-more", "Trade-off", "faster", "3-4x", "x", Limit(3, digits=2), ratio, _speed),
        own("fps", performance, "frames per second", "~40-60", "images/s", Limit(40), rtx, _frames(CANDIDATE)),
        own("memory", performance, "less memory than the original", "68 %", "%", Limit(68), "peak of one forward above weights and inputs",
            _peak_share, digits=1),
        own("video-memory", performance, "video memory", "~0.8 GB", "GB", Limit(None, 0.8, 1), "weights and peak of one forward on CUDA",
            _video_memory(CANDIDATE)),
        own("accuracy", performance, "of the original's accuracy", "95-98 %", "%", Limit(95), "accuracy after training",
            _never("needs trained models; both carry random weights")),
        theirs("total", comparison, "all parameters", "27 M", "M", exact(27, 27), counted, _parameters("whole", side=ORIGINAL)),
        theirs("encoder", comparison, "6 encoder layers", "4.5 M", "M", exact(4.5, 4.5, 1), counted,
               _parameters("encoder", side=ORIGINAL, levels=LEVELS[:1])),
        theirs("decoder", comparison, "6 decoder layers", "7.2 M", "M", exact(7.2, 7.2, 1), counted,
               _parameters("decoder", "decoder layers", side=ORIGINAL, levels=LEVELS[:1])),
        theirs("additional", comparison, "everything else", "15.3 M", "M", exact(15.3, 15.3, 1), counted,
               _parameters("rest", "additional", side=ORIGINAL, levels=LEVELS[:1])),
        theirs("encoder-order", comparison, "encoder over image tokens", "O(N^2)", "order", exact(2, 2), order,
               _growth("tokens", "encoder", ORIGINAL)),
        theirs("decoder-order", comparison, "decoder over image tokens", "O(N^2)", "order", exact(2, 2), order,
               _growth("tokens", "decoder", ORIGINAL)),
        theirs("decoder-queries", comparison, "decoder over queries", "O(N^2)", "order", exact(2, 2), order,
               _growth("queries", "decoder", ORIGINAL)),
        theirs("heads", "Key Innovations 4", "attention heads", "8", "", exact(8, 8), "model.built", _built("nheads", ORIGINAL), digits=0),
        theirs("mlp-ratio", "Key Innovations 4", "MLP ratio", "4x", "x", exact(4, 4), "model.built", _mlp_ratio(ORIGINAL), digits=0),
        theirs("encoder-layers", "Key Innovations 4", "encoder layers", "6", "", exact(6, 6), "model.built", _built("enc_layers", ORIGINAL),
               digits=0),
        theirs("ffn", "Key Innovations 4", "hidden width of the feed-forward networks", "2048", "", exact(2048, 2048), "model.built",
               _built("dim_feedforward", ORIGINAL), digits=0),
        theirs("fps", performance, "frames per second", "~15-20", "images/s", Limit(15, 20), rtx, _frames(ORIGINAL)),
        theirs("video-memory", performance, "video memory", "~2.5 GB", "GB", exact(2.5, 2.5, 1), "weights and peak of one forward on CUDA",
               _video_memory(ORIGINAL)),
    )


CLAIMS = _claims()


# Deciding ---------------------------------------------------------------------------------------------------------------------------


def decide(evidence: Evidence, claims: Sequence[Claim] = CLAIMS) -> list[Verdict]:
    """Every claim's verdict, from what was measured alone."""
    return [_decided(claim, evidence) for claim in claims]


def _decided(claim: Claim, evidence: Evidence) -> Verdict:
    try:
        findings = tuple(claim.look(evidence))
    except Missing as missing:
        return Verdict(claim, UNDECIDED, why=str(missing))
    shown = "; ".join(each.text or _shown(each, claim) for each in findings)
    each = [_passes(claim.limit, finding) for finding in findings]
    if False in each:
        return Verdict(claim, FAILS, shown, f"{claim.claimed} is claimed", findings)
    if None in each:
        return Verdict(claim, UNDECIDED, shown, "the times do not settle it; use a quiet machine or a longer --budget", findings)
    return Verdict(claim, HOLDS, shown, "", findings)


def _passes(limit: Limit, finding: Finding) -> bool | None:
    if finding.low is None:
        return limit.holds(finding.value)
    ends = {limit.holds(value) for value in (finding.low, finding.high, finding.wall) if value is not None}
    return ends.pop() if len(ends) == 1 else None


def _shown(finding: Finding, claim: Claim) -> str:
    value = f"{finding.value:,.{claim.digits}f}"
    unit = {"x": "x", "": "", "order": ""}.get(claim.unit, f" {claim.unit}")
    return f"{value}{unit}" + (f" ({finding.label})" if finding.label else "")


def exit_code(evidence: Evidence, verdicts: Sequence[Verdict]) -> int:
    """0 when every decidable claim about the candidate holds, 3 when one fails, 1 when a measurement failed."""
    if evidence.failures:
        return EXIT_FAILED
    failed = any(each.verdict == FAILS and each.claim.side == CANDIDATE for each in verdicts)
    return EXIT_REGRESSION if failed else EXIT_DONE
