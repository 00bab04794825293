"""What the published claims are decided by: measurements of a candidate and of the original, gathered through the bench.

`gather` measures; what it returns is a function of records and of what a small probe in a child process did. No torch, no printing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from humar_bench.args import ModelArgs, RunArgs, Size, Workload, parse_size
from humar_bench.errors import UsageError
from humar_bench.options import help_of, option
from humar_bench.records.record import Record, Run
from humar_bench.running.costs import EXACT, Point, exact_records
from humar_bench.running.plan import parse_settings, read_args_file
from humar_bench.studies.accuracy.rings import is_original
from humar_bench.subjects.registry import Architecture, parse_architecture
from humar_bench.subjects.sources import child_command
from humar_bench.table import joined

if TYPE_CHECKING:
    from humar_bench.studies.accuracy.tables import Accuracy

CANDIDATE, ORIGINAL = "candidate", "original"
SIZES: tuple[Size, ...] = ((50, 50),) * 3  # the published speed test's maps
QUERIES = (20, 300)  # the shipped configuration's and the speed test's
MORE_QUERIES, MORE_KEYPOINTS = (75, 150, 300), (17, 34, 68)


def _field(name: str, default: Any) -> Any:
    """A field of RunArgs with another default."""
    [own] = [each for each in dataclasses.fields(RunArgs) if each.name == name]
    return dataclasses.field(default=default, metadata=own.metadata)


@dataclass(frozen=True)
class ClaimsRun(RunArgs):
    """How `claims` measures: a published factor is far from 1, so few runs settle it and no control is needed."""

    processes: int = _field("processes", 3)
    control: bool = _field("control", False)
    budget: float = _field("budget", 6.0)

    def plain(self) -> RunArgs:
        return RunArgs(**dataclasses.asdict(self))


@dataclass(frozen=True)
class ClaimsOptions:
    """What only `claims` asks."""

    architecture: str = option(
        "What is held to the claims: efficient, package.module:builder or path/file.py:builder.", default="efficient", metavar="ARCH"
    )
    time: bool = option("Also measure speed.", default=True, flags=("--time/--no-time",))
    batch: int | None = option(f"{help_of(Workload, 'batch')} By default 1 on a CPU, else 2, as published.", metavar="B")
    set: tuple[str, ...] = option("Any field of ModelArgs, such as hidden_dim=128. Repeatable.", default=(), metavar="FIELD=VALUE")
    args: str | None = option("Fields of ModelArgs from a .json or .toml file.", metavar="FILE")
    feature_sizes: str = option(
        "Feature maps of speed and memory, one HEIGHTxWIDTH per level.", default=",".join(f"{high}x{wide}" for high, wide in SIZES),
        metavar="HxW,...",
    )

    accuracy: str | None = option("Folder of `humar-bench accuracy -o`: what decides the claim about accuracy.", metavar="DIR")
    whole: str | None = option(
        "Folder of `humar-bench report --whole -o`: hold what is promised of the whole model to it; nothing is measured.", metavar="DIR"
    )

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"batch is {self.batch}; it must be at least 1.")
        for name in ("num_queries", "num_feature_levels", "num_body_points"):
            if name in self.settings:
                raise UsageError(f"{name} is set to {self.settings[name]}; the claims fix it, leave it out.")
        if len(self.sizes) != len(SIZES):
            raise UsageError(f"--feature-sizes is {self.feature_sizes}; the claims are about {len(SIZES)} levels, name as many sizes.")

    @property
    def settings(self) -> dict[str, Any]:
        return {**({} if self.args is None else read_args_file(self.args)), **parse_settings(self.set)}

    @property
    def sizes(self) -> tuple[Size, ...]:
        return tuple(parse_size(text) for text in self.feature_sizes.split(","))

    @property
    def model(self) -> ModelArgs:
        return ModelArgs(**self.settings)


class Missing(Exception):
    """Why there is nothing to decide a claim by."""


@dataclass(frozen=True)
class Evidence:
    """What was measured. `points` holds the records of each amount of work, `behaviour` what each side did in the small probe."""

    sides: Mapping[str, str]  # candidate and original -> the name in the records
    points: Mapping[str, Run]
    behaviour: Mapping[str, Mapping[str, Any]]
    queries: tuple[int, ...] = QUERIES
    timed: bool = True
    accuracy: Mapping[str, Any] | None = None  # of a study of accuracy (`accuracy_of`)

    @property
    def run(self) -> Run:
        """All records."""
        return Run(tuple(record for run in self.points.values() for record in run))

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence for each measurement that failed."""
        failed = [f"{each.measure} of {each.architecture} failed: {each.reason}" for each in self.run if not each.ok]
        failed += [f"behaviour of {self.sides[side]} failed: {told['error']}" for side, told in self.behaviour.items() if "error" in told]
        return tuple(dict.fromkeys(failed))

    def record(self, measure: str, point: str, side: str) -> Record:
        records = list(self.points.get(point, Run()).select(measure=measure, architecture=self.sides[side]))
        if not records:
            raise Missing(f"{measure} was not measured")
        if not records[-1].ok:
            raise Missing(f"the measurement failed: {records[-1].reason}")
        return records[-1]

    def measured(self, measure: str, point: str, side: str) -> Mapping[str, Any]:
        return self.record(measure, point, side).measured

    def built(self, side: str, name: str) -> float:
        record = self.record("params", "4 levels", side)
        if name not in record.built:
            raise Missing("the model does not say what it was built with (model.built)")
        return record.built[name]

    def did(self, side: str, name: str) -> Any:
        told = self.behaviour.get(side, {"error": "the probe was not made"})
        if "error" in told:
            raise Missing(told["error"])
        return told[name]


@dataclass(frozen=True)
class Step:
    """One measure of one amount of work."""

    point: str
    measure: str
    args: ModelArgs
    workload: Workload

    @property
    def exact(self) -> bool:
        """Whether nothing has to be run."""
        return self.measure in ("params", "flops")


def steps(args: ModelArgs, sizes: Sequence[Size], batch: int, queries: Sequence[int], *, timed: bool) -> list[Step]:
    """Everything that is counted or measured, the timed last."""
    sizes = tuple(sizes)
    height, width = sizes[-1]
    four = (*sizes, (-(-height // 2), -(-width // 2)))

    def step(point: str, measure: str, maps: tuple[Size, ...], images: int, asked: int, **more: int) -> Step:
        made = dataclasses.replace(args, num_feature_levels=len(maps), num_queries=asked, **more)
        return Step(point, measure, made, Workload("claims", images, asked, maps))

    found = [step(f"{len(maps)} levels", "params", maps, 1, queries[0]) for maps in (four, sizes)]
    for factor in (1, 2, 4):  # heights even, so that cells of tokens come out whole
        maps = tuple((max(2, high // 4 * 2) * factor, wide) for high, wide in sizes)
        found.append(step(f"tokens x{factor}", "flops", maps, 1, queries[0]))
    most = [min(each, sum(high * wide for high, wide in sizes)) for each in MORE_QUERIES]
    for factor, asked, keypoints in zip((1, 2, 4), most, MORE_KEYPOINTS, strict=True):
        found.append(step(f"queries x{factor}", "flops", sizes, 1, asked))
        found.append(step(f"keypoints x{factor}", "flops", sizes, 1, queries[0], num_body_points=keypoints))
    found += [step(f"{asked} queries", "memory", sizes, batch, asked) for asked in queries]
    return found + [step(f"{asked} queries", "fps", sizes, batch, asked) for asked in queries if timed]


def gather(
    candidate: str | Architecture = "efficient", args: Any = None, run: RunArgs | None = None, *, sizes: Sequence[Size] = SIZES,
    batch: int = 2, queries: Sequence[int] = QUERIES, timed: bool = True, sink: Any = None,
    progress: Callable[[float, str], None] | None = None, command: str = "",
) -> Evidence:
    """Measure what the claims need, the candidate against the original. A measurement that fails is part of the evidence."""
    from humar_bench.running.bench import benchmark

    args, run, candidate = ModelArgs.of(args if args is not None else ModelArgs()), run or RunArgs(), parse_architecture(candidate)
    original = Architecture("original" if candidate.name != "original" else "the original", "original", foreign=False)
    tell = progress or (lambda share, text: None)
    planned = steps(args, sizes, batch, queries, timed=timed)
    exact = [step for step in planned if step.exact]
    points = _count(exact, (original, candidate), run, sink, lambda share, text: tell(0.3 * share, text), command)
    measured = [step for step in planned if not step.exact]
    for index, step in enumerate(measured):
        tell(0.3 + 0.6 * index / len(measured), f"{step.measure}, {step.point}")
        made = benchmark([original, candidate], step.args, step.workload, [step.measure], run, sink=sink, command=command)
        points[step.point] = points.get(step.point, Run()).plus(made)
    tell(0.9, "behaviour")
    sides = {CANDIDATE: candidate, ORIGINAL: original}
    return Evidence({side: each.name for side, each in sides.items()}, points, _behave(sides, args, run), tuple(queries), timed)


def _count(
    steps: Sequence[Step], architectures: Sequence[Architecture], run: RunArgs, sink: Any, progress: Callable[[float, str], None],
    command: str,
) -> dict[str, Run]:
    """The exact steps: all of an architecture's in one child process, which runs nothing."""
    keep = (lambda *records: None) if sink is None else sink.write
    points = [Point(each, step.args, step.workload) for step in steps for each in architectures]
    records = exact_records(points, run, keep=keep, progress=progress, command=command)
    found: dict[str, Run] = {}
    for index, step in enumerate(steps):
        own = records[index * len(EXACT) * len(architectures) : (index + 1) * len(EXACT) * len(architectures)]
        found[step.point] = Run(tuple(record for record in own if record.measure == step.measure))
    return found


def accuracy_of(study: Accuracy, candidate: Architecture) -> dict[str, Any]:
    """What a study of accuracy says of the candidate against the original, as plain values. Raises UsageError when it is of others."""
    trained = {arm["name"]: arm["spec"] for arm in study.settings["arms"]}
    names = [name for name, spec in trained.items() if spec == candidate.spec and name != study.reference]
    if not names:
        raise UsageError(f"--accuracy is of a study that trained {joined(list(trained))}, and not {candidate.name}; name another one.")
    if not is_original(trained[study.reference]):
        raise UsageError(f"--accuracy is of a study whose reference is {study.reference}; the claim is about the original's accuracy.")
    found = study.retention.get(names[0])
    if found is None:
        return {"title": study.title, "reason": f"{study.missing} runs of the study are missing", "value": None}
    return {
        "title": study.title, "reference": study.reference, "value": found.value, "low": found.low, "high": found.high,
        "verdict": found.verdict, "reason": found.reason, "runs": found.runs, "reference_runs": found.reference_runs,
    }


def _check(reply: dict[str, Any]) -> None:
    """Raises ValueError for a reply that is neither numbers by name nor a sentence."""
    told = reply.get("behaviour")
    if "error" not in reply and not (isinstance(told, dict) and all(isinstance(each, (int, float)) for each in told.values())):
        raise ValueError("it holds no behaviour")


def _behave(sides: Mapping[str, Architecture], args: ModelArgs, run: RunArgs) -> dict[str, dict[str, Any]]:
    """Each side's small probe, in a child process of its own."""
    from humar_bench.running.children import Child, run_children

    maps = ((13, 11), (7, 6), (4, 3))
    args = dataclasses.replace(args, num_feature_levels=len(maps), num_queries=5)
    work = Workload("behaviour", 2, 5, maps, padded=True)
    children = []
    for side, architecture in sides.items():
        request = {
            "measure": "behaviour", "architectures": [dataclasses.asdict(architecture)], "asked": dataclasses.asdict(args),
            "workload": dataclasses.asdict(work), "run": dataclasses.asdict(dataclasses.replace(run, device="cpu", dtype="float32")),
        }
        command = child_command("humar_bench.studies.claims.worker")
        children.append((side, Child(request, timeout_s=run.timeout, hear=lambda event: None, names=(architecture.name,), command=command,
                                     check=_check)))
    told = {}
    for side, outcome in run_children(children, at_once=2):
        reply = outcome.reply or {"error": outcome.reason}
        told[side] = {"error": reply["error"]} if "error" in reply else reply["behaviour"]
    return told
