"""`humar-bench calibrate`: what this bench calls different, and what it finds, on this machine. Plan -> child processes -> certificate.

Every child builds and times five stacks of the same small layers: a reference, the same again (A/A), and three with 1, 2 and 4 % more
layers. `error_rates.py` turns their raw times into rates. The certificate holds the machine, the settings, the results and the raw
times, stamped with a SHA-256; whoever reads it can check the stamp and make every result again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from humar_bench.args import RunArgs
from humar_bench.errors import InvalidMeasurement, MeasurementError, UsageError
from humar_bench.options import help_of, option
from humar_bench.reading import parse_json, read_bytes
from humar_bench.records.appending import Appender, OutputLost
from humar_bench.running.children import Child, Outcome, run_children
from humar_bench.subjects.sources import child_command

# History of the certificate, newest first. 1: kind, made, command, environment, settings, raw, results, sha256.
FORMAT = 1
KIND = "humar-bench calibration"
ARMS = {"100": 100, "100 again": 100, "101": 101, "102": 102, "104": 104}
CERTIFICATE_NAME, RAW_NAME, MARKDOWN_NAME = "certificate.json", "raw.jsonl", "calibration.md"
START_S = 6.0  # about what a child needs before it times; only how long a child times depends on it
ANALYSIS_S = 8.0  # kept back from the budget for the analysis
AIM_PROCESSES = 15
MIN_ARM_S, MAX_ARM_S = 0.8, 1.5
CLOCK_SHARE = 1e-3  # one forward a block: it is as short as a block should be, and reading the clocks costs every arm the same
CHILD_TIMEOUT_S = 180.0
MAX_FAILURES = 3
COMPARISONS, REPLAYS = 2000, 300  # drawn for every rate of ours, and for every rule of others
CITED_DIGITS = 12
MACHINE = ("device_label", "cores", "torch")  # what a certificate holds for

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """How a calibration is made. Raises UsageError when a value cannot work."""

    budget: float = option("Seconds for the whole calibration, process starts included.", default=600.0)
    device: str = option(help_of(RunArgs, "device"), default="cpu", metavar="NAME")
    threads: int = option("CPU threads.", default=1)
    seed: int = option("Seed of weights, orders and resampling.", default=0)

    def __post_init__(self) -> None:
        RunArgs(device=self.device, seed=self.seed, threads=max(0, self.threads))
        if not 30 <= self.budget <= 86_400:
            raise UsageError(f"budget is {self.budget:g}; it must be at least 30 seconds (two processes) and at most a day.")
        if self.threads < 1:
            raise UsageError(f"threads is {self.threads}; it must be at least 1.")

    @property
    def arm_s(self) -> float:
        """Seconds each arm is timed in a process: a short budget makes shorter processes before it makes fewer."""
        share_s = (self.budget / AIM_PROCESSES - START_S) / len(ARMS)
        return min(MAX_ARM_S, max(MIN_ARM_S, share_s))

    @property
    def plan(self) -> dict[str, Any]:
        """Keywords of measures.speed_sample.TimingPlan, the same in every process but for the seed."""
        return {
            "min_runs": 20, "max_runs": 100_000, "budget_s": self.arm_s, "warmup_window_s": 0.1, "warmup_max_s": 1.0,
            "clock_share": CLOCK_SHARE,
        }

    def request(self, process: int) -> dict[str, Any]:
        """What child number `process` is asked."""
        return {
            "arms": ARMS, "process": process, "seed": self.seed, "threads": self.threads, "device": self.device,
            "plan": {**self.plan, "seed": self.seed * 1_000_003 + process},
        }


class RawWriter:
    """Appends each process's raw data to a file, on the disk before the next process begins. `lost` is what happened to the file, if
    something did. Raises UsageError when the file cannot be opened."""

    def __init__(self, path: str | os.PathLike) -> None:
        self._file = Appender(Path(path))
        self.lost: OutputLost | None = None

    def __call__(self, process: Mapping[str, Any]) -> None:
        """Raises OutputLost when something happened to the file, MeasurementError when it cannot be written."""
        try:
            self._file.append(raw_line(process).encode(), f"process {process['process']}")
        except OutputLost as error:
            self.lost = error
            raise

    def close(self) -> None:
        self._file.close()


class Clock:
    """Whether the budget has room for another process, by what the last ones took."""

    def __init__(self, budget_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self.budget_s, self.now = budget_s, now
        self.start_s = now()
        self.took_s: list[float] = []

    @property
    def elapsed_s(self) -> float:
        return self.now() - self.start_s

    def another(self) -> bool:
        """The first always; one more only when it would end in time if it took as long as the slowest of the last five."""
        return not self.took_s or self.elapsed_s + max(self.took_s[-5:]) + ANALYSIS_S <= self.budget_s


def calibrate(
    settings: Settings, *, sink: Callable[[dict[str, Any]], None] | None = None, progress: Callable[[Event], None] | None = None,
    run: Callable[[Iterator[tuple[int, Child]]], Iterator[tuple[int, Outcome]]] | None = None, now: Callable[[], float] = time.monotonic,
    command: str = "",
) -> dict[str, Any]:
    """Measure within the budget and return the stamped certificate. Each process's raw data go to `sink` as soon as they exist.

    Where the file of `sink` is lost, no other process begins and the certificate of those before names it under its failures.
    `progress` hears process, share and reason. `run` and `now` stand in for real children and the real clock in tests. Raises UsageError
    when nothing can be measured and MeasurementError when processes fail again and again or fewer than two fit into the budget.
    """
    clock, lost = Clock(settings.budget, now), None
    raw: list[dict[str, Any]] = []
    failures: list[str] = []
    environment: dict[str, Any] = {}
    begun_s = clock.start_s
    for process, outcome in (run or _one_at_a_time)(_children(settings, clock)):
        ended_s = now()
        took_s, begun_s = ended_s - begun_s, ended_s
        clock.took_s.append(took_s)
        found, reason = _read(outcome)
        if reason:
            failures.append(reason)
            if len(failures) >= MAX_FAILURES:
                raise MeasurementError(f"{len(failures)} processes failed; the last one: {reason}")
        else:
            environment = environment or outcome.reply["environment"]
            raw.append({**found, "ended_s": round(clock.elapsed_s, 3), "took_s": round(took_s, 3)})
            try:
                if sink is not None:
                    sink(raw[-1])
            except OutputLost as error:
                lost = error
                failures.append(str(error))
                break
        if progress is not None:
            progress({"process": process, "share": min(1.0, clock.elapsed_s / settings.budget), "reason": reason})
    if len(raw) < 2:
        raise lost or MeasurementError(
            f"{len(raw)} processes fitted into {settings.budget:g} s and a comparison needs 2; give a longer --budget."
        )
    return make_certificate(raw, settings, environment, failures=failures, elapsed_s=clock.elapsed_s, command=command)


def _children(settings: Settings, clock: Clock) -> Iterator[tuple[int, Child]]:
    """One child after the other, as long as the budget has room."""
    command = child_command("humar_bench.studies.calibrate.worker")
    process = 0
    while clock.another():
        yield process, Child(
            settings.request(process), timeout_s=CHILD_TIMEOUT_S, hear=lambda event: None, names=(f"process {process}",), command=command,
            check=_check,
        )
        process += 1


def _check(reply: dict[str, Any]) -> None:
    """Raises ValueError for a reply that is neither raw data of every arm nor a sentence."""
    if "usage_error" in reply or "error" in reply:
        return
    arms = reply["raw"].get("arms") if isinstance(reply.get("raw"), dict) else None
    if "environment" not in reply or not isinstance(arms, dict) or arms.keys() != ARMS.keys():
        raise ValueError("it holds no environment and the times of every stack")


def _one_at_a_time(children: Iterator[tuple[int, Child]]) -> Iterator[tuple[int, Outcome]]:
    return run_children(children, at_once=1)


def _read(outcome: Outcome) -> tuple[dict[str, Any], str]:
    """A child's raw data, or the reason why there are none. Raises UsageError when what was asked cannot be measured by any child."""
    if outcome.reply is None:
        return {}, outcome.reason
    if "usage_error" in outcome.reply:
        raise UsageError(outcome.reply["usage_error"])
    return outcome.reply.get("raw", {}), outcome.reply.get("error", "")


# The certificate


def make_certificate(
    raw: Sequence[Mapping[str, Any]], settings: Settings, environment: Mapping[str, Any], *, failures: Sequence[str] = (),
    elapsed_s: float = 0.0, command: str = "", made: str | None = None,
) -> dict[str, Any]:
    """Analyse the raw data and stamp everything."""
    from humar_bench.judging.statistics import ALPHA, MARGINS

    asked = {
        "budget_s": settings.budget, "device": settings.device, "threads": settings.threads, "seed": settings.seed,
        "arm_s": settings.arm_s, "plan": settings.plan, "arms": dict(ARMS), "alpha": ALPHA,
        "margin": MARGINS.get(settings_kind(environment, settings), MARGINS["cpu"]), "comparisons": COMPARISONS, "replays": REPLAYS,
    }
    document = {
        "format": FORMAT, "kind": KIND, "made": made or datetime.now(UTC).isoformat(timespec="seconds"), "command": command,
        "environment": dict(environment), "settings": asked, "results": results_of(raw, asked), "failures": list(failures),
        "elapsed_s": round(elapsed_s, 3), "raw": list(raw),
    }
    return stamped(json.loads(json.dumps(document, allow_nan=False)))


def settings_kind(environment: Mapping[str, Any], settings: Settings) -> str:
    """cpu or cuda: where it really ran, when the settings say auto."""
    return str(environment.get("device") or settings.device).partition(":")[0]


def results_of(raw: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every result of a certificate, from its raw data and settings alone."""
    from humar_bench.studies.calibrate.error_rates import Analysis, analyse

    names = ("arms", "margin", "alpha", "seed", "comparisons", "replays")
    return analyse(raw, Analysis(**{name: settings[name] for name in names}))


def canonical(document: Mapping[str, Any]) -> bytes:
    """The one spelling of a document that its stamp is made from: sorted keys, no blanks, ASCII."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def stamp(document: Mapping[str, Any]) -> str:
    """SHA-256 over everything but the stamp itself."""
    return hashlib.sha256(canonical({key: value for key, value in document.items() if key != "sha256"})).hexdigest()


def stamped(document: Mapping[str, Any]) -> dict[str, Any]:
    return {**document, "sha256": stamp(document)}


def cite(document: Mapping[str, Any]) -> str:
    """How a table names the certificate that its verdicts rest on: the first twelve digits of its stamp."""
    return document["sha256"][:CITED_DIGITS]


def citation(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a table says of a certificate, small enough for a record: how it is cited and, by the records' names of the clocks, false
    alarms in independent comparisons with their bound and the smallest planted effect found."""
    results, by = document["results"], {}
    for metric in results["metrics"]:
        alarms = max((row for row in results["false_alarms"] if row["metric"] == metric), key=lambda row: row["independent"])
        smallest = results["smallest_found"].get(metric)
        found = [row["found_rate"] for row in results["power"] if (row["metric"], row["processes"], row["planted"]) == (
            metric, results["comparison_processes"], smallest)]
        by[metric.replace("_ns", "_s")] = {
            "alarms": alarms["independent_alarms"], "of": alarms["independent"], "at_most": alarms["independent_bound"],
            "effect": smallest, "found": found[0] if found else None, "processes": results["comparison_processes"],
        }
    return {"cited": cite(document), "threads": document["settings"]["threads"], "by": by}


def cited_here(path: str | os.PathLike, environment: Mapping[str, Any]) -> dict[str, Any]:
    """The citation of the certificate in `path` (its file or folder) for tables measured in `environment`.

    Raises UsageError when it is of another machine, version or way to decide, and InvalidMeasurement when it was changed or says that
    this machine tells identical stacks apart.
    """
    from humar_bench.judging.statistics import ALPHA, MARGINS

    path = Path(path)
    document = verify_certificate(path / CERTIFICATE_NAME if os.path.isdir(path) else path, again=False)
    kind = str(environment.get("device", "cpu")).partition(":")[0]
    wanted = {**{name: environment.get(name) for name in MACHINE}, "level": ALPHA, "margin": MARGINS.get(kind, MARGINS["cpu"])}
    settings = document["settings"]
    has = {**{name: document["environment"].get(name) for name in MACHINE}, "level": settings["alpha"], "margin": settings["margin"]}
    for name, now in wanted.items():
        if has[name] != now:
            raise UsageError(
                f"certificate {cite(document)} was made with {name} {has[name]} and {now} is measured with here; "
                "humar-bench calibrate makes one of this machine."
            )
    if wrong := fault(document):
        raise InvalidMeasurement(f"certificate {cite(document)}: {wrong}")
    return citation(document)


def fault(document: Mapping[str, Any]) -> str:
    """One sentence when all processes together call the identical stacks different, else nothing."""
    for row in document["results"]["sizes"]:
        if row["planted"] == 0 and row["metric"] in document["results"]["metrics"] and row["verdict"] in ("faster", "slower"):
            return (
                f"this machine tells identical stacks apart: the second came out {row['verdict']} than the first over "
                f"{row['processes']} processes; nothing timed here can be trusted."
            )
    return ""


def with_raw_beside(document: Mapping[str, Any], name: str = RAW_NAME) -> tuple[dict[str, Any], str]:
    """The certificate with its raw data in a file of their own, and that file's text: one process a line. The stamp covers the file's
    SHA-256, so it differs from that of the certificate in one piece."""
    text = "".join(raw_line(process) for process in document["raw"])
    beside = {"file": name, "sha256": hashlib.sha256(text.encode()).hexdigest(), "processes": len(document["raw"])}
    return stamped({**document, "raw": beside}), text


def raw_line(process: Mapping[str, Any]) -> str:
    return canonical(process).decode() + "\n"


def written(document: Mapping[str, Any]) -> str:
    """The certificate as a file: one key a line at the top, raw data one process a line."""
    parts = []
    for key, value in document.items():
        if key == "raw" and isinstance(value, list):
            text = "[\n" + ",\n".join(canonical(process).decode() for process in value) + "\n]"
        elif key == "raw":
            text = canonical(value).decode()
        else:
            text = json.dumps(value, indent=1, allow_nan=False)
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def verify_certificate(path: str | os.PathLike, *, again: bool = True) -> dict[str, Any]:
    """The certificate in `path`, if its stamp, its spelling and its raw data are what was written and, with `again`, its results follow
    from its raw data. Raises UsageError when it is no certificate and InvalidMeasurement when something in it was changed."""
    file = Path(path)
    document = _load(file)
    try:
        whole = stamp(document) == document.get("sha256")
    except ValueError:  # a number that became infinite has no spelling
        whole = False
    if not whole:
        raise InvalidMeasurement(f"{file.name} was changed after it was written: its SHA-256 is not the one it carries; calibrate again.")
    if written(document).encode() != read_bytes(file):
        raise InvalidMeasurement(f"{file.name} is not spelled as it was written; get the original or calibrate again.")
    raw = document["raw"]
    if isinstance(raw, dict):
        raw = _load_raw(file.with_name(raw["file"]), raw["sha256"])
    if again:
        wrong = difference(document["results"], json.loads(json.dumps(results_of(raw, document["settings"]))))
        if wrong:
            raise InvalidMeasurement(f"{file.name}: results{wrong}, made again from the raw data; calibrate again with this version.")
    return document


def _load(file: Path) -> dict[str, Any]:
    try:
        document = parse_json(read_bytes(file))
    except OSError as error:
        raise UsageError(f"{str(file)!r} cannot be read: {error.strerror or error}; name a certificate of humar-bench calibrate.") from None
    except ValueError as error:
        raise InvalidMeasurement(f"{file.name} is no JSON ({error}); get the original or calibrate again.") from None
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise UsageError(f"{str(file)!r} is no calibration certificate; name one that humar-bench calibrate wrote.")
    if document.get("format") != FORMAT:
        raise UsageError(f"{str(file)!r} has format {document.get('format')}; this version reads {FORMAT}.")
    return document


def _load_raw(file: Path, sha256: str) -> list[dict[str, Any]]:
    try:
        content = read_bytes(file)
    except OSError as error:
        raise UsageError(f"the raw data {str(file)!r} cannot be read: {error.strerror or error}; put the file back.") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InvalidMeasurement(f"{file.name} was changed: its SHA-256 is not the one its certificate names; get the original.")
    try:
        return [parse_json(line) for line in content.splitlines()]
    except ValueError as error:
        raise InvalidMeasurement(f"{file.name} is no JSON ({error}); get the original.") from None


def difference(one: Any, other: Any, where: str = "") -> str:
    """Where two JSON values differ, in words, or nothing; numbers may differ by the last digits, which libraries round differently."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs = [(f"{where}.{key}", one[key], other[key]) for key in one]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(f"{where}[{index}]", *both) for index, both in enumerate(zip(one, other, strict=True))]
    elif type(one) is float and type(other) is float:
        return "" if abs(one - other) <= 1e-9 * max(1.0, abs(one)) else f"{where} is {one} and should be {other}"
    else:
        return "" if one == other else f"{where} is {str(one)[:60]} and should be {str(other)[:60]}"
    return next((found for each in pairs if (found := difference(each[1], each[2], each[0]))), "")
