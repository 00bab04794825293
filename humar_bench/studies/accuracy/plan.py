"""What a study of accuracy trains: architectures, learning rates, seeds, and the list of runs that follows. No torch.

Seeds: learning rates are chosen on seed 0, which no other run has; reference and candidates are trained with 1, 2, 3, the control (the
reference again) with 4, 5, 6, and so on in turns of three, so that a study that is asked for more seeds keeps every run it has. A seed
decides initial weights, pictures and their order, alike for every architecture. What stands before the transformer is trained ahead once,
and every run begins with those weights.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from humar_bench.args import EFFICIENT_PREFIX
from humar_bench.errors import UsageError
from humar_bench.judging.retention import MARGIN
from humar_bench.records.record import AGAIN, TRAINING, Record
from humar_bench.running.plan import parse_settings
from humar_bench.studies.accuracy.presets import Preset
from humar_bench.studies.accuracy.rings import LEAST_SIDE, ORIGINAL, ring_of, ring_spec
from humar_bench.studies.accuracy.scores import DRAWS
from humar_bench.studies.switches import DESIGN, Switch
from humar_bench.subjects.registry import Architecture, check_architecture, parse_architectures
from humar_bench.training.train_args import TrainArgs

RATE, RUN, FLOOR = "rate", "run", "floor"  # what a run is for: choosing a learning rate, the comparison, the mean pose
MEAN_POSE = "mean pose"
SCALED, TAUGHT = ", ring scaled", ", taught"  # end the names of arms that nobody named
RATE_SEED = 0
TURN = 3  # seeds of the arms, then as many of the control
EVALUATIONS = 5  # of a run: one each fifth of its schedule
RINGS = ("better", "both", "published", "scaled")
WIDER = 2  # times the grid of learning rates may be widened by one where the reference's best lies at its edge


@dataclass(frozen=True)
class Arm:
    """One architecture in the study. `counts`: whether its verdict is the command's; one that is only shown beside does not.

    Of arms with one `rivals` word only the best on the seed for learning rates is compared. An arm that also imitates the reference's run
    of the same seed has the learning rate of the arm that is `untaught`.
    """

    architecture: Architecture
    counts: bool = True
    rivals: str = ""
    untaught: str = ""

    @property
    def name(self) -> str:
        return self.architecture.name

    @property
    def settings(self) -> dict[str, Any]:
        """What a study keeps of it beside its records."""
        taught = {"untaught": self.untaught} if self.untaught else {}
        return {"name": self.name, "spec": self.architecture.spec, "counts": self.counts, **taught}


@dataclass(frozen=True)
class Job:
    """One run: what for, of which architecture, with which options. The control's name ends in AGAIN."""

    role: str
    name: str
    architecture: Architecture
    options: TrainArgs
    stage: str = ""  # tells runs apart that differ in nothing else but their length
    teaches: bool = False  # its last checkpoint is kept, for those whose `options.teacher` names its folder
    teacher_arch: str = ""  # of that run
    paced_by: tuple[str, ...] = ()  # architectures whose seconds a picture add up to no less than its own, until it has its own

    @property
    def folder(self) -> str:
        """Name of the run's folder, from its role, architecture, seed and learning rate."""
        return f"{self.role}-{self.stage}{_safe(self.name)}-seed{self.options.seed}-lr{self.options.optim.lr:g}"

    @property
    def work(self) -> dict[str, Any]:
        """The record's workload: everything that decides the run, without the model and without paths of this machine."""
        options = self.options.to_json()
        kept = {name: value for name, value in options.items() if name not in _ELSEWHERE}
        return {"role": self.role, "name": TRAINING, **kept}

    @property
    def weight(self) -> float:
        """About how long it takes, in pictures."""
        return self.options.pictures or 1.0

    def record(self, result: Mapping[str, Any], environment: Mapping[str, Any], command: str = "") -> Record:
        own = self.architecture
        run = {"device": self.options.device, "dtype": self.options.dtype, "threads": self.options.threads}
        return Record(
            measure=TRAINING, architecture=self.name, spec=own.spec, foreign=own.foreign, asked=dataclasses.asdict(self.options.model),
            workload=self.work, run=run, process=self.options.seed, environment=dict(environment), command=command, **result,
        )

    @property
    def key(self) -> str:
        """The key of its record, whether it exists or not."""
        return self.record({"measured": {}}, {}).key


def _safe(name: str) -> str:
    """A name as a folder's name has it."""
    return "".join(each if each.isalnum() else "-" for each in name)


_ELSEWHERE = (  # stand elsewhere in the record, or are of this machine alone
    "model", "arch", "front_end", "rendered", "tokenizer", "device", "dtype", "threads", "workers", "checkpoint_every", "log_every",
)


@dataclass(frozen=True)
class AccuracyPlan:
    """Everything a study trains. The first arm is the reference."""

    preset: Preset
    arms: tuple[Arm, ...]
    base: TrainArgs  # of every run, but for architecture, seeds, learning rate and front end
    rates: tuple[float, ...]
    seeds: int
    margin: float = MARGIN
    draws: int = DRAWS  # of pictures
    beaten: tuple[Arm, ...] = ()  # by a rival: their learning rates were tried, and that is all
    shared_rate: bool = False  # the reference's learning rate is everybody's: arms that are one design, nearly

    def settled(self, best: Mapping[str, float]) -> AccuracyPlan:
        """The plan with the better of rivals, by the accuracy that each arm had with its best learning rate."""
        kept: dict[str, Arm] = {}
        for arm in (*self.arms, *self.beaten):
            word = arm.rivals or arm.name
            if word not in kept or best.get(arm.name, 0.0) > best.get(kept[word].name, 0.0):
                kept[word] = arm
        arms = tuple(kept.values())
        return dataclasses.replace(self, arms=arms, beaten=tuple(arm for arm in (*self.arms, *self.beaten) if arm not in arms))

    @property
    def reference(self) -> Arm:
        return self.arms[0]

    @property
    def again(self) -> str:
        """Name of the control."""
        return f"{self.reference.name}{AGAIN}"

    @property
    def tried(self) -> tuple[Arm, ...]:
        """The arms whose learning rates are chosen."""
        return (self.reference,) if self.shared_rate else tuple(arm for arm in (*self.arms, *self.beaten) if not arm.untaught)

    def chosen(self, best: Mapping[str, float]) -> dict[str, float]:
        """Arm -> its learning rate, from those of the arms that were tried."""
        tried = {arm.name: self.reference.name if self.shared_rate else arm.untaught or arm.name for arm in self.arms}
        return {name: best[of] for name, of in tried.items() if of in best}

    def rate_jobs(self, rates: Sequence[float]) -> list[Job]:
        """The runs that choose learning rates: every arm with every one of `rates`."""
        pictures = _whole_steps(self.base, round(self.base.pictures * self.preset.rate_share))
        base = dataclasses.replace(self.base, pictures=pictures, evaluate_every=0)
        return [self._job(RATE, arm.name, arm, rate, RATE_SEED, base) for arm in self.tried for rate in rates]

    def run_jobs(self, chosen: Mapping[str, float]) -> list[Job]:
        """The runs that are compared, with each arm's learning rate: every arm's, and the control's."""
        base = dataclasses.replace(self.base, evaluate_every=self.base.pictures // EVALUATIONS)
        reference, teaching = self.reference, any(arm.untaught for arm in self.arms)
        jobs = []
        for seed in self.own_seeds:
            teacher = self._job(RUN, reference.name, reference, chosen[reference.name], seed, base)
            jobs.append(dataclasses.replace(teacher, teaches=teaching))
            for arm in self.arms[1:]:
                job = self._job(RUN, arm.name, arm, chosen[arm.name], seed, base)
                if arm.untaught:
                    options = dataclasses.replace(job.options, teacher=teacher.folder)
                    paced_by = (arm.untaught, reference.name)
                    job = dataclasses.replace(job, options=options, teacher_arch=reference.architecture.spec, paced_by=paced_by)
                jobs.append(job)
        return jobs + [self._job(RUN, self.again, reference, chosen[reference.name], seed, base) for seed in self.control_seeds]

    @property
    def own_seeds(self) -> tuple[int, ...]:
        return tuple(1 + each + each // TURN * TURN for each in range(self.seeds))

    @property
    def control_seeds(self) -> tuple[int, ...]:
        return tuple(each + TURN for each in self.own_seeds)

    @property
    def settings(self) -> dict[str, Any]:
        """What a study is beside its records, as plain values."""
        return {
            "preset": self.preset.name, "title": self.preset.title, "minutes": self.preset.minutes, "machine": self.preset.machine,
            "arms": [arm.settings for arm in self.arms],
            "beaten": {arm.name: next(each.name for each in self.arms if each.rivals == arm.rivals) for arm in self.beaten},
            "margin": self.margin, "rates": list(self.rates), "seeds": self.seeds, "draws": self.draws,
            "warm_pictures": self.preset.warm_pictures,
        }

    @property
    def floor_job(self) -> Job:
        """The mean pose at the right place and scale."""
        options = dataclasses.replace(self.base, pictures=0)
        return Job(FLOOR, MEAN_POSE, Architecture(MEAN_POSE, "", foreign=False), options)

    @property
    def warm_options(self) -> TrainArgs | None:
        """Of the training ahead of what stands before the transformer; None where there is none. Nothing runs beside it, so that those
        who draw for the other runs, and one core at least, draw for it."""
        base, pictures = self.base, self.preset.warm_pictures
        workers = max(base.workers * max(self.preset.at_once, 1), 1)
        ahead = dataclasses.replace(base, arch=self.reference.architecture.spec, pictures=pictures, workers=workers)
        return ahead if pictures else None

    def _job(self, role: str, name: str, arm: Arm, rate: float, seed: int, base: TrainArgs) -> Job:
        options = dataclasses.replace(base, arch=arm.architecture.spec, seed=seed, data_seed=seed, optim=base.optim.with_lr(rate))
        return Job(role, name, arm.architecture, options)

    def wider(self, rates: Sequence[float], *, lower: bool) -> float:
        """The rate beyond an end of the grid, as far from it as its neighbour."""
        ordered = sorted(rates)
        pair = (ordered[0], ordered[1]) if lower else (ordered[-1], ordered[-2])
        return float(f"{pair[0] ** 2 / pair[1]:.3g}")


def steps_of(base: TrainArgs) -> int:
    """Pictures of the fewest whole steps that make whole fifths, so that evaluations come exactly at them."""
    return base.optim.batch_size * base.accumulate * EVALUATIONS


def _whole_steps(base: TrainArgs, pictures: int) -> int:
    """So many pictures, as whole fifths of whole steps."""
    step = steps_of(base)
    return max(step, pictures // step * step)


@dataclass(frozen=True)
class Asked:
    """What was asked beside the preset; None: as the preset has it."""

    arch: tuple[str, ...]
    reference: str | None = None
    level: int | None = None
    data: str | None = None
    ring: str | None = None
    seeds: int | None = None
    pictures: int | None = None
    evaluation_pictures: int | None = None
    rates: tuple[float, ...] | None = None
    front_share: float | None = None
    size: int | None = None
    warm: int | None = None
    keeps: float = MARGIN
    at_once: int | None = None
    taught: tuple[str, ...] = ()


def plan_of(preset: Preset, asked: Asked) -> AccuracyPlan:
    """Raises UsageError with one sentence for what cannot be."""
    base = _base(preset, asked)
    if asked.warm is not None:
        if asked.warm < 0:
            raise UsageError(f"--warm is {asked.warm}; it must be a number of pictures, or 0 for no training ahead.")
        preset = dataclasses.replace(preset, warm_pictures=asked.warm)
    if asked.front_share is not None:
        if not 0 <= asked.front_share <= 1:
            raise UsageError(f"--front-share is {asked.front_share:g}; it must be from 0 (what was trained ahead stays as it is) to 1.")
        if not preset.warm_pictures:
            raise UsageError(f"--front-share is {asked.front_share:g} and nothing is trained ahead; say on how many pictures with --warm.")
        base = dataclasses.replace(base, optim=dataclasses.replace(base.optim, front_end_share=asked.front_share))
    rates = tuple(sorted(asked.rates or preset.rates))
    if len(rates) < 3 or len(set(rates)) < len(rates):
        raise UsageError(f"--rates names {', '.join(f'{each:g}' for each in rates)}; name at least three different learning rates.")
    for rate in rates:
        base.optim.with_lr(rate)
    seeds = preset.seeds if asked.seeds is None else asked.seeds
    if not 2 <= seeds <= 1000:
        raise UsageError(f"--seeds is {seeds}; it must be from 2 to 1000, since one run says nothing about another seed.")
    if not 0 < asked.keeps <= 1:
        raise UsageError(f"--keeps is {asked.keeps:g}; it must be a share above 0 and at most 1, such as 0.95.")
    if asked.at_once is not None:
        if not 0 <= asked.at_once <= 1024:
            raise UsageError(f"--at-once is {asked.at_once}; it must be from 1 to 1024, or 0 for one run a core.")
        preset = dataclasses.replace(preset, at_once=asked.at_once)
    return AccuracyPlan(preset, _arms(base, asked), base, rates, seeds, asked.keeps)


def _base(preset: Preset, asked: Asked) -> TrainArgs:
    base = preset.base
    if asked.data is not None and asked.level is not None:
        raise UsageError(f"--data is {asked.data} and --level is {asked.level}; give one of the two.")
    data = asked.data if asked.data is not None else None if asked.level is None else f"procedural:{asked.level}"
    if not base.is_procedural and data is None:
        raise UsageError("the preset refhuman needs the folder with RefHuman_train.json and images; name it with --data.")
    given = {"data": data, "size": asked.size, "pictures": asked.pictures, "evaluation_pictures": asked.evaluation_pictures}
    base = dataclasses.replace(base, **{name: value for name, value in given.items() if value is not None})
    if base.is_procedural:
        level = base.level if asked.level is None else asked.level
        if level not in (0, 1, 2):
            said = f"--data is {data}" if asked.level is None else f"--level is {level}"
            raise UsageError(f"{said}; choose level 0 (one person), 1 (several) or 2 (everything).")
    if not base.is_procedural and not base.pictures:
        raise UsageError(f"the data is {base.data}, whose length is not known before it is read; say with --pictures how many a run sees.")
    if base.evaluation_pictures and base.evaluation_pictures < 20:
        raise UsageError(f"--val is {base.evaluation_pictures}; at least 20 pictures are needed to draw any from.")
    return dataclasses.replace(base, pictures=_whole_steps(base, base.pictures))


def _arms(base: TrainArgs, asked: Asked) -> tuple[Arm, ...]:
    """The arms, the reference first; on small maps the original stands there with its ring as published and scaled."""
    parsed = parse_architectures([own_fields(text) for text in asked.arch])
    for each in parsed:
        check_architecture(each)
    names = [each.name for each in parsed]
    reference = names[0] if asked.reference is None else asked.reference
    if reference not in names:
        raise UsageError(f"reference is {reference!r}; choose one of the architectures trained: {', '.join(names)}.")
    if asked.ring is not None and asked.ring not in RINGS:
        raise UsageError(f"--ring is {asked.ring!r}; choose one of {', '.join(RINGS)}.")
    ring = asked.ring or ("better" if base.is_procedural and base.size // 8 < LEAST_SIDE else "published")
    factor = ring_of((base.size, base.size)) if base.is_procedural else 1.0
    arms: list[Arm] = []
    for each in sorted(parsed, key=lambda each: each.name != reference):
        if each.spec != ORIGINAL or ring == "published" or factor == 1:
            arms.append(Arm(each))
            continue
        rivals = each.name if ring == "better" else ""
        arms.append(Arm(Architecture(f"{each.name}{SCALED}", ring_spec(factor), foreign=True), rivals=rivals))
        if ring != "scaled":
            arms.append(Arm(each, counts=bool(rivals), rivals=rivals))
    if len(parsed) < 2:
        raise UsageError(f"only {names[0]} would be trained; name at least two with --arch.")
    arms += _taught(arms, [name for name in names if name != reference], asked.taught)
    _refuse_alike(arms)
    return tuple(arms)


def _refuse_alike(arms: Sequence[Arm]) -> None:
    """Raises UsageError where two rows, or the folders of two arms' runs, would have one name."""
    own = [arm.name for arm in arms]
    there: dict[str, str] = {}
    for name in (*own, *(f"{name}{AGAIN}" for name in own)):
        if (other := there.get(_safe(name))) is not None:
            raise UsageError(f"two rows would be {other!r} and {name!r}, whose runs have one folder; give one of your own another name.")
        there[_safe(name)] = name


def _taught(arms: Sequence[Arm], others: Sequence[str], names: Sequence[str]) -> list[Arm]:
    """Each of the named arms once more, as a student of the reference."""
    known = {arm.name: arm for arm in arms if arm.name in others}
    for name in names:
        if name in others and any(arm.name == f"{name}{SCALED}" for arm in arms):
            raise UsageError(f"--taught is {name!r}, which is trained with another ring here; add --ring published to teach it.")
        if name not in known or names.count(name) > 1:
            said = "once each" if name in known else "architectures trained that are not the reference"
            raise UsageError(f"--taught is {name!r}; name {said}: {', '.join(known)}.")
    own = [(known[name], dataclasses.replace(known[name].architecture, name=f"{name}{TAUGHT}")) for name in names]
    return [Arm(architecture, untaught=arm.name) for arm, architecture in own]


def own_fields(text: str) -> str | Architecture:
    """'NAME=efficient[efficient_encoder_stride=1]' -> the replacement with these fields of ModelArgs; any other text as it is.

    Raises UsageError."""
    found = re.fullmatch(rf"\s*(?:([^=\[]*)=)?\s*{DESIGN}\[(.*)\]\s*", text)
    if not found:
        return text
    changes = parse_settings(found[2].split(","))
    for field in changes:
        if not field.startswith(EFFICIENT_PREFIX):
            said = f"--arch {text!r} sets {field}, which all architectures share"
            raise UsageError(f"{said}; only {EFFICIENT_PREFIX}... may be an arm's own.")
    return Switch((found[1] or f"{DESIGN}[{found[2]}]").strip(), changes).architecture
