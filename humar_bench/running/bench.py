"""Plan -> child processes -> records. Prints nothing; the parent sleeps while a child measures.

What is counted shares one process (`costs.py`); all that runs a model has a fresh one of its own, one after the other. A child that
crashes, hangs, runs out of memory or is refused becomes a failed record with a sentence; the others go on. One class, and so a long file:
what was measured so far says what runs next, and who took a process down is found out in between.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from humar_bench.args import EAGER, INPUTS_FORMS, FreeWorkload, ModelArgs, RunArgs, WholeWorkload, Workload
from humar_bench.backends import check_installed
from humar_bench.errors import UsageError
from humar_bench.judging.verdicts import judge
from humar_bench.records.audit import audited
from humar_bench.records.record import (
    AGAIN,
    ALL_MEASURES,
    COMPONENT_TIME,
    END_TO_END,
    Record,
    Run,
    failed_result,
    measures_with,
    other_machine,
)
from humar_bench.running.children import Child, Outcome, run_children
from humar_bench.running.costs import NOTHING, PEAK, Count, Point, count_all
from humar_bench.running.messages import check_results
from humar_bench.subjects.loading import refuse_while_loading
from humar_bench.subjects.reach import reached
from humar_bench.subjects.registry import Architecture, check_architecture, check_inputs, check_settings, parse_architectures

WARMUP_MAX_S = 10.0
TIMED = ("fps", COMPONENT_TIME)  # measures that build all architectures in one process
OTHER_MACHINE = "its process says it ran on another machine than the ones before it."
MOST_LOST = 2  # processes an architecture may take down before it is left out of those to come


class Sink(Protocol):
    """What takes records as they are measured (`records.writer.RecordWriter`): one, or those of one child together."""

    def write(self, *records: Record) -> None: ...


@dataclass(frozen=True)
class Job:
    """What is measured together: a measure, its architectures, and for fps the number of the process."""

    measure: str
    architectures: tuple[Architecture, ...]
    process: int = 0


def benchmark(
    architectures: Sequence[str | Architecture] = ("original", "efficient"),
    args: Any = None,
    workload: Workload | None = None,
    measures: Sequence[str] | None = None,
    run: RunArgs | None = None,
    *,
    sink: Sink | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    done: Run | None = None,
    counters: Sequence[str] = (),
    command: str = "",
    limit_bytes: int | None = None,
    reference: str | None = None,
    certificate: Mapping[str, Any] | None = None,
    pictures: Mapping[str, Any] | None = None,
    inputs: Any = None,
    components: Mapping[str, Sequence[str]] | None = None,
) -> Run:
    """Measure `architectures`, built from the same `args`, on the same `workload`: all `MEASURES` by default, component_time only where the
    backend is eager, since no other one calls a model's modules.

    An architecture is named as on the command line, or given as it is: a function, a class, a model or a `functools.partial` that a child
    process can find in a file or a package; a mapping gives them names. With `inputs`, the name of a function or the function itself,
    models are called with what it makes for the workload's batch; `components` are names of parts with the beginnings of modules' paths.

    Each record goes to `sink` as soon as it exists. `progress` is called with events: measure, stage, architecture, process, of,
    status (started, running, done, failed), share, reason. Measurements that `done` holds with status ok are not made again.
    `counters` are cross-checks of the FLOPs. `limit_bytes` bounds a child's address space. Speed is compared with `reference`, the first
    architecture by default: it is timed a second time as a control, and no process is started once every verdict against it is made.
    Speed records carry `certificate` (`calibrate.cited_here`), so that their tables can cite it. `pictures` says what the measure
    end_to_end is given: pictures (a folder), captions, point, cache_text, tokenizer (a folder), each as the command line has it.

    Raises UsageError when nothing can be measured; a measurement that fails is a record. After Ctrl-C the children are gone and what
    `sink` took is complete.
    """
    refuse_while_loading("benchmark")
    if inputs is None and components is not None:
        raise UsageError("components are of models that are called by inputs; give inputs too.")
    bench = _Bench(
        architectures=tuple(parse_architectures(architectures)),
        args=ModelArgs.of(args if args is not None else ModelArgs()),
        workload=_free(workload or Workload.uniphd(), inputs, components),
        run=run or RunArgs(),
        sink=sink,
        progress=progress or (lambda event: None),
        done=done or Run(),
        counters=tuple(counters),
        command=command,
        limit_bytes=limit_bytes,
        reference=reference or "",
        certificate=certificate,
        pictures=pictures or {},
    )
    return bench.measure(measures_with(bench.run.backend) if measures is None else measures)


def _free(workload: Workload, inputs: Any, components: Mapping[str, Sequence[str]] | None) -> Workload:
    """The workload, around which `inputs` make what models are called with, where there are any. Raises UsageError."""
    if inputs is None:
        return workload
    if isinstance(workload, WholeWorkload):
        raise UsageError("inputs were given and the whole model makes its own; leave out one of the two.")
    spec = inputs if isinstance(inputs, str) else reached(inputs, "inputs", f"name a function, {INPUTS_FORMS}")[1]
    return FreeWorkload.around(workload, spec, components)


def one_speed_process(
    architecture: Architecture, args: ModelArgs, workload: Workload, run: RunArgs, process: int, *, sink: Sink | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None, done: Run | None = None, command: str = "",
) -> Record:
    """Time one architecture alone in one fresh process, the so many-th of `run`; a study that times in an order of its own asks so.

    Raises UsageError when nothing can be measured, or when `done` was measured on another machine.
    """
    bench = _Bench(
        architectures=(architecture,), args=args, workload=workload, run=run, sink=sink, progress=progress or (lambda event: None),
        done=done or Run(), counters=(), command=command, limit_bytes=None, reference="", certificate=None,
    )
    bench._run_together(Job("fps", (architecture,), process))
    return bench.made[0]


@dataclass
class _Bench:
    architectures: tuple[Architecture, ...]
    args: ModelArgs
    workload: Workload
    run: RunArgs
    sink: Sink | None
    progress: Callable[[dict[str, Any]], None]
    done: Run
    counters: tuple[str, ...]
    command: str
    limit_bytes: int | None
    reference: str
    certificate: Mapping[str, Any] | None
    pictures: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.made: list[Record] = []
        self.lost: dict[str, int] = {}  # processes that each architecture took down while it was alone in them
        self.apart = False  # whether all run alone and die together, so that each gets processes of its own
        names = [each.name for each in self.architectures]
        self.reference = self.reference or names[0]
        if self.reference not in names:
            raise UsageError(f"reference is {self.reference!r}; choose one of the architectures measured: {', '.join(names)}.")
        if taken := [name for name in names if name.endswith(AGAIN)]:
            raise UsageError(f"the architecture name {taken[0]!r} ends like a control's; name it otherwise, as in NAME=ARCH.")
        levels = len(self.workload.feature_sizes)
        if levels != self.args.num_feature_levels:
            raise UsageError(
                f"num_feature_levels is {self.args.num_feature_levels} and the workload {self.workload.name} has {levels} levels; "
                "make them equal."
            )
        for architecture in self.architectures:
            check_architecture(architecture)
            check_settings(architecture, self.workload)
        if isinstance(self.workload, FreeWorkload):
            check_inputs(self.workload.inputs)
        self.have = {record.key for record in self.done if record.ok}

    def measure(self, measures: Sequence[str]) -> Run:
        measures = [measures] if isinstance(measures, str) else list(measures)
        for name in measures:
            if name not in ALL_MEASURES:
                raise UsageError(f"the measure {name!r} does not exist; choose from {', '.join(ALL_MEASURES)}.")
            if name != "fps" and self.run.dtype == "int8":
                raise UsageError(f"dtype is int8 and {name} was asked for; int8 layers are made by what runs a forward, only time them.")
        if END_TO_END in measures and not isinstance(self.workload, WholeWorkload):
            raise UsageError(f"the workload {self.workload.name} is of a transformer alone; only the whole model finds people in pictures.")
        if COMPONENT_TIME in measures and self.run.backend != EAGER:
            raise UsageError(f"backend is {self.run.backend} and time by component was asked for; only eager calls a model's components.")
        check_installed(self.run.backend)
        counted = [name for name in ("params", "flops") if name in measures]
        memory = [job for job in self._alone("memory") if not self._is_done(job)] if "memory" in measures else []
        predicted = self._count(counted, memory)
        if "fps" in measures:
            self._run_speed()
        for job in memory:
            self._run_memory(job, predicted[job.architectures[0].name])
        if COMPONENT_TIME in measures:
            missing = tuple(each for each in self.architectures if not self._is_done(Job(COMPONENT_TIME, (each,))))
            self._run_together(Job(COMPONENT_TIME, missing))
        if END_TO_END in measures:
            self._run_together(Job(END_TO_END, self.architectures))  # its key does not say of which pictures it is: always anew
        return self.done.plus(self.made).latest()

    def _alone(self, measure: str) -> list[Job]:
        return [Job(measure, (each,)) for each in self.architectures]

    @property
    def processes(self) -> int:
        """Processes a speed comparison may take; each has at least one run."""
        return self.run.most_processes

    # Counts: all in one process ------------------------------------------------------------------------------------------------

    def _count(self, measures: Sequence[str], memory: Sequence[Job]) -> dict[str, dict[str, Any]]:
        """Records of `measures`, and per architecture what can be said of its memory without running it, for the jobs that will."""
        predicted: dict[str, dict[str, Any]] = {}
        counts = [
            Count(Point(each, self.args, self.workload), measure) for each in self.architectures for measure in measures
            if not self._is_done(Job(measure, (each,)))
        ]
        counts += [Count(Point(job.architectures[0], self.args, self.workload), PEAK) for job in memory]

        def begin(count: Count) -> None:
            if count.measure == PEAK:
                self._tell(memory[0], "prediction", count.name, "running")
            else:
                self._begin(Job(count.measure, (count.point.architecture,)))

        def keep(count: Count, result: dict[str, Any], environment: dict[str, Any]) -> None:
            if count.measure == PEAK:
                predicted[count.name] = result
                self._tell(memory[0], "prediction", count.name, "told", result=result)
            else:
                if self._is_elsewhere(count.measure, environment):
                    result, environment = failed_result("error", OTHER_MACHINE), {}
                result = self._audited(count.measure, count.name, result, environment)
                self._keep(Job(count.measure, (count.point.architecture,)), {count.name: result}, environment)

        count_all(counts, self.run, keep, begin=begin, counters=self.counters, limit_bytes=self.limit_bytes)
        return predicted

    # Memory: a process each ----------------------------------------------------------------------------------------------------

    def _run_memory(self, job: Job, predicted: dict[str, Any]) -> None:
        """Measure what was predicted; a model that failed then is not tried a second time."""
        if predicted["status"] == "failed":
            self._begin(job)
            return self._keep(job, {job.architectures[0].name: predicted}, {})
        [(_, outcome)] = run_children([self._child(job, predicted=predicted["measured"])], at_once=1)
        self._keep(job, *self._heard(job, outcome))

    def _is_done(self, job: Job) -> bool:
        """Whether all of a job's records exist: what was measured in one process belongs together."""
        return all(self._record(job, each, {"measured": {}}, {}).key in self.have for each in job.architectures)

    # Speed: all architectures in each process ----------------------------------------------------------------------------------

    def _run_speed(self) -> None:
        """Processes until every verdict is made, the budget is used up, or no process is left (`judging.Judged.finished`)."""
        alive = list(self.architectures)
        control = [dataclasses.replace(each, name=each.name + AGAIN) for each in alive if each.name == self.reference and self.run.control]
        for process in range(self.processes):
            control = [each for each in control if any(each.name == one.name + AGAIN for one in alive)]
            if not alive:
                return
            for architecture in self._run_missing(Job("fps", (*alive, *control), process)):
                (alive if architecture in alive else control).remove(architecture)
            if process + 1 >= self.run.looks_from and self._is_decided(process):
                return

    def _is_decided(self, process: int) -> bool:
        """Whether the records up to this process leave nothing to find out."""
        wanted = {self._record(Job("fps", (), number), each, {"measured": {}}, {}).key
                  for number in range(process + 1) for each in self._speed_arms()}
        found = self.done.plus(self.made).latest()
        return judge(Run(tuple(each for each in found if each.key in wanted)), self.reference).finished

    def _speed_arms(self) -> list[Architecture]:
        return [*self.architectures, *(dataclasses.replace(each, name=each.name + AGAIN) for each in self.architectures)]

    def _run_missing(self, whole: Job) -> list[Architecture]:
        """Run a process unless its records are there. Returns the architectures to leave out from now on.

        It is run whole, so that rounds pair. But what failed before runs alone first: where it fails again, or was timed in other
        processes, the others' records of this process stay the only ones.
        """
        missing = [each for each in whole.architectures if not self._is_done(dataclasses.replace(whole, architectures=(each,)))]
        if not missing:
            return []
        speeds = self.done.select(measure="fps")
        failed = {each.architecture for each in speeds.failed}
        if len(missing) == len(whole.architectures) or not failed.issuperset(each.name for each in missing):
            return self._run_together(whole)
        timed = {each.architecture for each in speeds if each.ok}
        left_out: list[Architecture] = []
        mended = False
        for each in missing:
            job = Job("fps", (each,), whole.process)
            [(_, outcome)] = run_children([self._child(job)], at_once=1)
            if each.name not in timed and self._is_fine(job, outcome):
                mended = True
                continue
            if each.name not in timed:
                self.lost[each.name] = MOST_LOST  # it failed before, and again
            left_out += self._keep_speeds(job, outcome)
        left = tuple(each for each in whole.architectures if each not in left_out)
        return left_out + (self._run_together(Job("fps", left, whole.process)) if mended else [])

    def _run_together(self, job: Job) -> list[Architecture]:
        """Run one process. Returns the architectures to leave out from now on.

        When it dies and several were in it, nobody can be blamed: whoever was running may say another was. They run again one at a time,
        the likely one first, until one dies alone; the others then run again without it. Where all live alone and die together again,
        what they did alone is kept.
        """
        left, alone, left_out, likely = list(job.architectures), {}, [], ""
        while left:
            together = dataclasses.replace(job, architectures=tuple(left))
            if not (self.apart and len(left) > 1):
                [(_, outcome)] = run_children([self._child(together)], at_once=1)
                if outcome.reply is not None or len(left) == 1:
                    return left_out + self._keep_speeds(together, outcome)
                likely = outcome.architecture
            untried = sorted((each for each in left if each.name not in alone), key=lambda each: each.name != likely)
            if not untried:
                break
            each = untried[0]
            single = dataclasses.replace(job, architectures=(each,))
            [(_, lonely)] = run_children([self._child(single)], at_once=1)
            if lonely.reply is None:
                self.lost[each.name] = MOST_LOST  # it died in company and alone
                left_out += self._keep_speeds(single, lonely)
                left.remove(each)
            else:
                alone[each.name] = lonely
        self.apart = self.apart or bool(left)
        for each in left:
            left_out += self._keep_speeds(dataclasses.replace(job, architectures=(each,)), alone[each.name])
        return left_out

    def _is_fine(self, job: Job, outcome: Outcome) -> bool:
        return all(each["status"] == "ok" for each in self._heard(job, outcome)[0].values())

    def _keep_speeds(self, job: Job, outcome: Outcome) -> list[Architecture]:
        """Keep a process's records. Returns the architectures to leave out: what raised, and what took down its second process."""
        results, environment = self._heard(job, outcome)
        self._keep(job, results, environment)
        if outcome.reply is not None:
            return [each for each in job.architectures if results[each.name]["status"] == "failed"]
        for each in job.architectures:
            self.lost[each.name] = self.lost.get(each.name, 0) + 1
        return [each for each in job.architectures if outcome.kind == "timeout" or self.lost[each.name] >= MOST_LOST]

    # Requests and records ------------------------------------------------------------------------------------------------------

    def _child(self, job: Job, **more: Any) -> tuple[Job, Child]:
        request = {
            "measure": job.measure,
            "architectures": [dataclasses.asdict(each) for each in job.architectures],
            "asked": dataclasses.asdict(self.args),
            "workload": dataclasses.asdict(self.workload),
            "run": dataclasses.asdict(self.run),
            "process": job.process,
            "plan": {"fps": timing_plan(self.run, job.process), END_TO_END: dict(self.pictures)}.get(job.measure, {}),
            "limit_bytes": self.limit_bytes,
            **more,
        }

        def hear(event: dict[str, Any]) -> None:
            self._tell(job, status="running", **event)

        self._begin(job)
        names = tuple(each.name for each in job.architectures)
        return job, Child(request, timeout_s=self.run.timeout, hear=hear, names=names, check=check_results)

    def _tell(self, job: Job, stage: str, architecture: str, status: str, **more: Any) -> None:
        """One event of the progress."""
        of = self.processes if job.measure == "fps" else 1
        self.progress({"measure": job.measure, "process": job.process, "of": of, "stage": stage, "architecture": architecture,
                       "status": status, **more})

    def _begin(self, job: Job) -> None:
        for architecture in job.architectures:
            self._tell(job, job.measure, architecture.name, "started")

    def _heard(self, job: Job, outcome: Outcome) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """Per architecture what the child replied, held against itself, or why it could not; and what it says of its machine, nothing
        where the children of this run before it say otherwise."""
        if outcome.reply is None:
            return {each.name: failed_result(outcome.kind, outcome.reason) for each in job.architectures}, {}
        if "usage_error" in outcome.reply and not self.made:
            raise UsageError(outcome.reply["usage_error"])
        environment, results, said = outcome.reply.get("environment", {}), outcome.reply.get("results", {}), NOTHING
        if "usage_error" in outcome.reply:  # the processes before it could do what was asked
            said = f"its process would not start: {outcome.reply['usage_error']}"
        elif self._is_elsewhere(job.measure, environment):
            environment, results, said = {}, {}, OTHER_MACHINE
        lost = failed_result("error", said)
        return {
            each.name: self._audited(job.measure, each.name, results.get(each.name, lost), environment) for each in job.architectures
        }, environment

    def _audited(self, measure: str, name: str, result: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
        return audited(name, measure, result, dataclasses.asdict(self.workload), environment)

    def _is_elsewhere(self, measure: str, environment: dict[str, Any]) -> bool:
        """Of a child that measured this: what is counted has no device, and what is timed has."""
        record = self._record(Job(measure, self.architectures), self.architectures[0], {"measured": {}}, environment)
        return any(other_machine(earlier, record) for earlier in self.made)

    def _record(self, job: Job, architecture: Architecture, result: dict[str, Any], environment: dict[str, Any]) -> Record:
        return Record(
            measure=job.measure, architecture=architecture.name, spec=architecture.spec, foreign=architecture.foreign,
            process=job.process, asked=dataclasses.asdict(self.args), workload=dataclasses.asdict(self.workload),
            run=dataclasses.asdict(self.run), environment=environment, command=self.command, **result,
        )

    def _keep(self, job: Job, results: dict[str, dict[str, Any]], environment: dict[str, Any]) -> None:
        if job.measure == "fps" and environment and self.certificate is not None:
            environment = {**environment, "certificate": dict(self.certificate)}
        records = [self._record(job, each, results[each.name], environment) for each in job.architectures]
        self._refuse_other_machine(records[0])
        if self.sink is not None:
            self.sink.write(*records)
        self.made.extend(records)
        for record in records:
            self._tell(job, job.measure, record.architecture, "done" if record.ok else "failed", reason=record.reason, record=record)

    def _refuse_other_machine(self, record: Record) -> None:
        """Before it is written: a run is of one machine and one set of versions, also where it is gone on with."""
        for earlier in (*self.done, *self.made):
            if found := other_machine(earlier, record):
                name, was, now = found
                raise UsageError(
                    f"the {earlier.measure} of {earlier.architecture} was measured with {name} {was} and {now} is here now; go on where it "
                    "was measured, or measure anew in a folder of its own."
                )


def timing_plan(run: RunArgs, process: int) -> dict[str, Any]:
    """This process's share of the runs and the budget, as keywords of measures.speed_sample.TimingPlan.

    The least runs are due by the first look, the budget and the most runs when all processes have run.
    """
    budget_s, fewest = run.budget / run.most_processes, max(1, math.ceil(run.min_runs / run.looks_from))
    return {
        "min_runs": min(fewest, max(1, run.max_runs // run.most_processes)),
        "max_runs": max(1, _share(run.max_runs, process, run.most_processes)),
        "budget_s": budget_s,
        "seed": run.seed * 1_000_003 + process,
        "warmup_max_s": min(WARMUP_MAX_S, max(0.5, budget_s)),
        "first_round": process * fewest,
    }


def _share(total: int, index: int, parts: int) -> int:
    """Whole shares that add up to the total."""
    return total // parts + (index < total % parts)
