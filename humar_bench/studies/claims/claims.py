"""Every number and order of the published Conv+Attention description, and the measurement that decides it. No torch, no printing.

A claim holds, fails, or cannot be decided here, with the reason: a function of what `evidence.gather` measured alone. Claims about the
original are decided too, but are no fault of a candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from humar_bench.errors import EXIT_DONE, EXIT_FAILED, EXIT_REGRESSION
from humar_bench.studies.claims import findings as found
from humar_bench.studies.claims.evidence import CANDIDATE, ORIGINAL, Evidence, Missing
from humar_bench.studies.claims.findings import LEVELS, Finding

HOLDS, FAILS, UNDECIDED = "holds", "fails", "cannot be decided here"


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
        own("total", comparison, "all parameters", "~5 M", "M", Limit(high=5), counted, found.parameters("whole")),
        own("total-range", "Overview", "all parameters", "~3-5 M", "M", Limit(3, 5), counted, found.parameters("whole")),
        own("reduction", comparison, "fewer parameters than the original", "81.5 %", "%", Limit(81.5, None, 1), counted,
            found.parameter_share,
            digits=1),
        own("encoder", comparison, "encoder blocks", "~1.5 M", "M", Limit(None, 1.5, 1), counted, found.parameters("encoder layers")),
        own("decoder", comparison, "decoder layers, without heads and positional MLP", "~1.2 M", "M", Limit(None, 1.2, 1), counted,
            found.parameters("decoder layers")),
        own("convolutions", comparison, "depthwise separable convolutions", "~0.3 M", "M", Limit(None, 0.3, 1), counted,
            found.parameters("separable")),
        own("additional", comparison, "everything else: heads, MLPs, embeddings", "~2 M", "M", Limit(None, 2), counted,
            found.parameters("additional")),
        own("separable", "Key Innovations 1", "a separable convolution against a standard one", "8-9x fewer", "x", Limit(8, 9, 1),
            "parameters of the built module against 9 C C + C", found.separable_ratio),
        own("attention-order", "Key Innovations 2", "encoder over image tokens", "O(N)", "order", Limit(None, 1), order,
            found.growth("tokens", "encoder")),
        own("keypoint-attention", "Key Innovations 3", "attention among keypoints, fewer parameters than the original's", "70 %", "%",
            Limit(70), "parameters of within-instance attention in all iterations, each counted once", found.within_share, digits=1),
        own("group", "Key Innovations 3", "tokens of an instance", "17+1", "", exact(18, 18), probe, found.did("tokens"), digits=0),
        own("heads", "Key Innovations 4", "attention heads", "4", "", exact(4, 4), "model.built", found.built("nheads"), digits=0),
        own("mlp-ratio", "Key Innovations 4", "MLP ratio", "2x", "x", exact(2, 2), "model.built", found.mlp_ratio(CANDIDATE), digits=0),
        own("encoder-layers", "Key Innovations 4", "encoder blocks", "4", "", exact(4, 4), "model.built", found.built("enc_layers"),
            digits=0),
        own("ffn", "Key Innovations 4", "hidden width of the feed-forward networks", "512", "", exact(512, 512), "model.built",
            found.built("dim_feedforward"), digits=0),
        own("decoder-tokens", comparison, "decoder over image tokens", "O(N)", "order", Limit(None, 1), order,
            found.growth("tokens", "decoder")),
        own("decoder-queries", "Decoder Architecture", "decoder over queries", "O(N)", "order", Limit(None, 1), order,
            found.growth("queries", "decoder")),
        own("decoder-keypoints", comparison, "decoder over keypoints", "O(K^2)", "order", Limit(None, 2), order,
            found.growth("keypoints", "decoder")),
        own("interface", "What We Kept", "same outputs: five parts, every shape", "yes", "", exact(1, 1), probe, found.interface),
        own("iterations", "What We Kept", "refinements of the points", "6", "", exact(6, 6), probe, found.did("iterations"), digits=0),
        own("two-stage", "What We Kept", "refinement starts from proposals of the memory", "yes", "", exact(1, 1), probe, found.two_stage),
        own("masks", "What We Kept", "masks honoured: change of visible outputs by noise under the padding", "0", "", Limit(None, 0, 6),
            probe, found.did("padding_leak"), digits=6),
        own("speed", performance, "faster", "2-3x", "x", Limit(2, digits=2), ratio, found.speed),
        own("speed-more", "Trade-off", "faster", "3-4x", "x", Limit(3, digits=2), ratio, found.speed),
        own("fps", performance, "frames per second", "~40-60", "images/s", Limit(40), rtx, found.frames(CANDIDATE)),
        own("memory", performance, "less memory than the original", "68 %", "%", Limit(68), "peak of one forward above weights and inputs",
            found.peak_share, digits=1),
        own("video-memory", performance, "video memory", "~0.8 GB", "GB", Limit(None, 0.8, 1), "weights and peak of one forward on CUDA",
            found.video_memory(CANDIDATE)),
        own("accuracy", performance, "of the original's accuracy", "95-98 %", "%", Limit(95), "accuracy after training",
            found.accuracy_kept, digits=1),
        theirs("total", comparison, "all parameters", "27 M", "M", exact(27, 27), counted, found.parameters("whole", side=ORIGINAL)),
        theirs("encoder", comparison, "6 encoder layers", "4.5 M", "M", exact(4.5, 4.5, 1), counted,
               found.parameters("encoder", side=ORIGINAL, levels=LEVELS[:1])),
        theirs("decoder", comparison, "6 decoder layers", "7.2 M", "M", exact(7.2, 7.2, 1), counted,
               found.parameters("decoder", "decoder layers", side=ORIGINAL, levels=LEVELS[:1])),
        theirs("additional", comparison, "everything else", "15.3 M", "M", exact(15.3, 15.3, 1), counted,
               found.parameters("rest", "additional", side=ORIGINAL, levels=LEVELS[:1])),
        theirs("encoder-order", comparison, "encoder over image tokens", "O(N^2)", "order", exact(2, 2), order,
               found.growth("tokens", "encoder", ORIGINAL)),
        theirs("decoder-order", comparison, "decoder over image tokens", "O(N^2)", "order", exact(2, 2), order,
               found.growth("tokens", "decoder", ORIGINAL)),
        theirs("decoder-queries", comparison, "decoder over queries", "O(N^2)", "order", exact(2, 2), order,
               found.growth("queries", "decoder", ORIGINAL)),
        theirs("heads", "Key Innovations 4", "attention heads", "8", "", exact(8, 8), "model.built", found.built("nheads", ORIGINAL),
               digits=0),
        theirs("mlp-ratio", "Key Innovations 4", "MLP ratio", "4x", "x", exact(4, 4), "model.built", found.mlp_ratio(ORIGINAL), digits=0),
        theirs("encoder-layers", "Key Innovations 4", "encoder layers", "6", "", exact(6, 6), "model.built", found.built("enc_layers",
               ORIGINAL),
               digits=0),
        theirs("ffn", "Key Innovations 4", "hidden width of the feed-forward networks", "2048", "", exact(2048, 2048), "model.built",
               found.built("dim_feedforward", ORIGINAL), digits=0),
        theirs("fps", performance, "frames per second", "~15-20", "images/s", Limit(15, 20), rtx, found.frames(ORIGINAL)),
        theirs("video-memory", performance, "video memory", "~2.5 GB", "GB", exact(2.5, 2.5, 1), "weights and peak of one forward on CUDA",
               found.video_memory(ORIGINAL)),
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
        return Verdict(claim, UNDECIDED, shown, findings[each.index(None)].undecided, findings)
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
