"""What is promised of the whole model, held to a folder of `report --whole`: nothing is measured here. No torch, no printing.

The arms of a promise are found by what they are (transformer, backbone, text encoder, masks), whatever they are called. A promise whose
arms the folder does not hold, or that is about other work, is not decided, and says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from humar_bench.args import ARM_SETTINGS
from humar_bench.errors import EXIT_DONE, EXIT_REGRESSION, UsageError
from humar_bench.judging.statistics import INVALID
from humar_bench.judging.verdicts import judge
from humar_bench.records.record import Record, Run
from humar_bench.report.comparison import asked_text, environment_text, made_by
from humar_bench.report.work_text import sizes_text
from humar_bench.studies.claims.claims import FAILS, Claim, Limit, Verdict, decide
from humar_bench.studies.claims.evidence import Missing
from humar_bench.studies.claims.findings import Finding, speed_between
from humar_bench.studies.claims.tables import FORMAT, claims_table, data, row
from humar_bench.subjects.registry import Architecture
from humar_bench.table import Table

WORK = {"image_size": (480, 640), "batch": 1, "prompt": "text", "caption_tokens": 12}  # what the figures to reach are about
SWIN, ROBERTA = "swin_T_224_1k", "roberta"


class Arm(NamedTuple):
    """A whole model: its transformer, and what stands around it."""

    transformer: str
    backbone: str
    text_encoder: str
    masks: str

    @property
    def words(self) -> str:
        return f"{self.transformer}[backbone={self.backbone},text_encoder={self.text_encoder},masks={self.masks}]"


PUBLISHED = Arm("original", SWIN, ROBERTA, "looped")
OURS, SMALL = Arm("efficient", SWIN, ROBERTA, "best"), Arm("efficient", "mobilevit_s", "minilm", "best")
EQUAL = tuple((Arm("original", SWIN, ROBERTA, masks), Arm("efficient", SWIN, ROBERTA, masks)) for masks in ("all", "best"))


@dataclass(frozen=True)
class Folder:
    """The records of a report of whole models."""

    run: Run

    @cached_property
    def arms(self) -> dict[Arm, str]:
        """Every arm by what it is; of several that are the same, the first."""
        found: dict[Arm, str] = {}
        for name in self.run.architectures:
            record = self.run.select(architecture=name)[0]
            architecture = Architecture(name, record.spec, record.foreign)
            parts = {part: architecture.settings.get(part, record.workload[part]) for part in ARM_SETTINGS}
            found.setdefault(Arm(architecture.builder, parts["backbone"], parts["text_encoder"], parts["masks"]), name)
        return found

    def name(self, arm: Arm) -> str:
        if arm not in self.arms:
            raise Missing(f"the folder holds no {arm.words}")
        return self.arms[arm]

    def records(self, measure: str, arm: Arm) -> Run:
        """What was measured of an arm; the last of each process."""
        records = self.run.select(measure=measure, architecture=self.name(arm)).latest()
        if not records:
            raise Missing(f"the folder holds no {measure} of {self.name(arm)}")
        if not records.select(status="ok"):
            raise Missing(f"{measure} of {self.name(arm)} failed: {records[-1].reason}")
        return records.select(status="ok")

    def faster(self, before: Arm, after: Arm) -> Finding:
        """How many times as fast `after` is. Raises Missing where the times cannot be used."""
        sides = [self.records("fps", arm) for arm in (before, after)]
        names = [self.name(before), self.name(after)]
        judged = judge(self.run.select(measure="fps"), names[0]).rows.get(names[1])
        if judged is not None and judged.detected.verdict == INVALID:
            raise Missing(judged.detected.reason)
        return speed_between(*sides, " against ".join(reversed(names)))

    def peaks(self, before: Arm, after: Arm) -> tuple[float, float, str]:
        """Both peaks in bytes, and whose they are."""
        peaks = [self.records("memory", arm)[-1].measured["peak_bytes"] for arm in (before, after)]
        return *peaks, f"{self.name(after)} against {self.name(before)}"

    @property
    def first(self) -> Record:
        return self.run[0]


def _figure(look: Callable[[Folder], list[Finding]]) -> Callable[[Folder], list[Finding]]:
    """A figure of one work alone: other sizes say nothing about it."""

    def held(folder: Folder) -> list[Finding]:
        work, device = folder.first.workload, folder.first.environment.get("device")
        given = {name: tuple(work[name]) if isinstance(work[name], list) else work[name] for name in WORK}
        wrong = [f"{name} {given[name]}, not {wanted}" for name, wanted in WORK.items() if given[name] != wanted]
        wrong += [] if device == "cpu" else [f"device {device}, not cpu"]
        if wrong:
            raise Missing(f"the folder is of {'; '.join(wrong)}")
        return look(folder)

    return held


def _faster(*pairs: tuple[Arm, Arm]) -> Callable[[Folder], list[Finding]]:
    return lambda folder: [folder.faster(*pair) for pair in _held(folder, pairs)]


def _peak_share(before: Arm, after: Arm) -> Callable[[Folder], list[Finding]]:
    def look(folder: Folder) -> list[Finding]:
        theirs, own, label = folder.peaks(before, after)
        return [Finding(100 * own / theirs, label)]

    return look


def _less_memory(*pairs: tuple[Arm, Arm]) -> Callable[[Folder], list[Finding]]:
    def look(folder: Folder) -> list[Finding]:
        peaks = [folder.peaks(*pair) for pair in _held(folder, pairs)]
        return [Finding(100 * (1 - own / theirs), label) for theirs, own, label in peaks]

    return look


def _held(folder: Folder, pairs: Sequence[tuple[Arm, Arm]]) -> Sequence[tuple[Arm, Arm]]:
    """Those of the pairs that the folder holds, or the first, whose missing arm is then named."""
    return [pair for pair in pairs if all(arm in folder.arms for arm in pair)] or pairs[:1]


def _promises() -> tuple[Claim, ...]:
    published, figures = "Expected Performance", "figures to reach"
    ratio, peak = "time of one forward of the whole model, in turn in fresh processes", "peak of one forward above weights and inputs"

    def promise(key: str, *rest: Any, **more: Any) -> Claim:
        return Claim(f"whole-{key}", *rest, **more)

    return (
        promise("speed", published, "faster, equal masks, backbone and text encoder", "2-3x", "x", Limit(2, digits=2), ratio,
                _faster(*EQUAL)),
        promise("memory", published, "less memory, equal masks, backbone and text encoder", "68 %", "%", Limit(68), peak,
                _less_memory(*EQUAL), digits=1),
        promise("passes", figures, "one batched mask pass is not slower than 20", "1x", "x", Limit(1, digits=2), ratio,
                _figure(_faster((PUBLISHED, Arm("original", SWIN, ROBERTA, "all"))))),
        promise("speed-same", figures, "faster than published, same backbone and text encoder, best mask", "3x", "x", Limit(3, digits=2),
                ratio, _figure(_faster((PUBLISHED, OURS)))),
        promise("speed-small", figures, "faster than published, MobileViT-s and MiniLM, best mask", "6x", "x", Limit(6, digits=2), ratio,
                _figure(_faster((PUBLISHED, SMALL)))),
        promise("peak-same", figures, "peak of the published one's, same backbone and text encoder, best mask", "35 %", "%",
                Limit(None, 35, 1), peak, _figure(_peak_share(PUBLISHED, OURS)), digits=1),
        promise("peak-small", figures, "peak of the published one's, MobileViT-s and MiniLM, best mask", "25 %", "%", Limit(None, 25, 1),
                peak, _figure(_peak_share(PUBLISHED, SMALL)), digits=1),
    )


PROMISES = _promises()
FEET = (
    "Speed: interval over processes, each end passed with 5 %; the interval and the wall time must be on one side of the claim.",
    "published: original, Swin-T, RoBERTa, 20 mask passes. The figures to reach are at 480x640, batch 1, a caption of 12 tokens, on a CPU.",
)


@dataclass(frozen=True)
class WholeClaims:
    """Each promise's verdict, and how it is shown."""

    run: Run
    name: ClassVar[str] = "claims-whole"
    failures: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        if not len(self.run):
            raise UsageError("the folder holds no records; name one that `humar-bench report --whole -o` wrote.")
        for record in self.run:
            if record.workload and any(part not in record.workload for part in (*ARM_SETTINGS, *WORK)):
                raise UsageError(
                    f"the folder is of {record.architecture} alone, not of whole models; name one of `humar-bench report --whole -o`."
                )

    @cached_property
    def verdicts(self) -> list[Verdict]:
        return decide(Folder(self.run), PROMISES)

    @property
    def exit_code(self) -> int:
        return EXIT_REGRESSION if any(each.verdict == FAILS for each in self.verdicts) else EXIT_DONE

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        return (claims_table(self.name, "Promises about the whole model", self.verdicts, FEET),)

    @cached_property
    def data(self) -> dict[str, Table]:
        return {"claims": data(self.verdicts)}

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        first = self.run[0]
        work, (height, width) = first.workload, first.workload["image_size"]
        prompt = f"captions of {work['caption_tokens']} tokens" if work["prompt"] == "text" else f"prompt {work['prompt']}"
        return (
            f"Images {height}x{width}, batch {work['batch']}, {prompt}, feature maps {sizes_text(work)}.",
            f"Asked: {asked_text(first.asked)}.", *dict.fromkeys(environment_text(each) for each in self.run), *made_by(list(self.run)),
        )

    @property
    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        rows = [{**row(each), "findings": [dataclasses.asdict(finding) for finding in each.findings]} for each in self.verdicts]
        return {"format": FORMAT, "claims": rows, "failures": [], "conditions": list(self.conditions), "exit_code": self.exit_code}
