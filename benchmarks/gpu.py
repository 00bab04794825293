"""Everything this project measures on a GPU, in under ten minutes, into results/<gpu>/ (`make gpu`; what to look at: docs/gpu.md).

    python -m benchmarks.gpu --deadline 570

The steps are data (`STEPS`), ordered by what they are worth. Each has a limit of its own, and what a step leaves of its time goes to the
ones behind it; one that fails or hangs takes nothing from the others. The summary is on disk after every step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from humar_bench.errors import HumarBenchError
from humar_bench.records.record import RECORDS_NAME, load
from humar_bench.records.writer import RecordWriter
from humar_bench.report.files import REPORT_NAME, write_report, write_text
from humar_bench.report.study import STUDY_NAME

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 570.0
GRACE_S = 5.0  # of a step's limit: between asking it to stop and stopping it
NO_DEVICE = 2  # exit code
SUMMARY = "summary"
DONE, FAILED, STOPPED, SKIPPED, RUNNING, WAITING = "done", "failed", "stopped", "skipped", "running", "waiting"
WORDS = {1: "a measurement failed", 2: "wrong command line", 3: "a regression", 4: "undecided", 5: "a measurement is invalid"}
_SPEED_TEST = ("--workload", "speed-test", "--batch", "2")
_UNIPHD = ("--workload", "uniphd", "--batch", "2")
_FUSED = ("--arch", "original-fused", "--arch", "efficient", "--reference", "original-fused")
_ALL = ("--arch", "original", "--arch", "original-fused", "--arch", "efficient")
_DTYPES = ("--dtype", "float32", "--dtype", "tf32", "--dtype", "bfloat16")
_TIMING = ("--device", "cuda", "--processes", "3", "--budget", "{budget}")
_KEPT = ("--records", "{out}/records.jsonl")
_MATRIX = ("--device", "cuda", "--processes", "1", "--budget", "{budget}", "--out", "{out}")  # this budget is the whole matrix's


@dataclass(frozen=True)
class Step:
    """One folder of the results. In `command`, {out} is that folder and {budget} is `budget_s`, shortened as the step's time is.

    `limit_s` is its share of the deadline; with less than `least_s` left it is not begun. `shows` is what it is for.
    """

    name: str
    shows: str
    limit_s: float
    least_s: float
    command: tuple[str, ...]
    budget_s: float = 0.0

    def typed(self, out: Path, allowed_s: float) -> list[str]:
        """The command as a user would type it, for as much time as it is given."""
        budget_s = round(self.budget_s * min(1.0, allowed_s / self.limit_s), 1)
        return [part.format(out=out, budget=f"{budget_s:g}") for part in self.command]


STEPS = (
    Step("report-speed-test", "both architectures on the published workload: parameters, FLOPs, speed, energy, memory", 80, 45,
         ("humar-bench", "report", *_SPEED_TEST, *_TIMING, "--out", "{out}"), 6),
    Step("memory-exact", "peaks to the byte: planted tensors, any order, prediction", 40, 15,
         ("pytest", "-m", "cuda", "-q", "-rs", "tests/measures/test_cuda_memory.py")),
    Step("backends-speed-test", "eager and CUDA graphs in three number types", 55, 25,
         ("humar-bench", "backends", *_SPEED_TEST, *_ALL, "--backend", "eager", "--backend", "cuda-graph", *_DTYPES, *_MATRIX), 48),
    Step("fused-300", "the replacement against the fused original, 300 queries", 42, 25,
         ("humar-bench", "fps", *_SPEED_TEST, *_FUSED, *_TIMING, *_KEPT), 4),
    Step("report-uniphd", "both architectures on the model's real use", 70, 45,
         ("humar-bench", "report", *_UNIPHD, *_TIMING, "--out", "{out}"), 6),
    Step("fused-20", "the replacement against the fused original, 20 queries", 38, 25,
         ("humar-bench", "fps", *_UNIPHD, *_FUSED, *_TIMING, *_KEPT), 4),
    Step("roofline", "how far each forward is from this GPU's own rates, and what holds it back", 45, 25,
         ("humar-bench", "roofline", *_SPEED_TEST, *_ALL, "--device", "cuda", "--budget", "{budget}", "--out", "{out}"), 15),
    Step("backends-uniphd", "the same on the model's real use", 45, 25,
         ("humar-bench", "backends", *_UNIPHD, *_ALL, "--backend", "eager", "--backend", "cuda-graph", *_DTYPES, *_MATRIX), 38),
    Step("backends-compiled", "compiled, with and without graphs, in three number types", 67, 40,
         ("humar-bench", "backends", *_SPEED_TEST, *_ALL, "--backend", "compile", "--backend", "compile-graph", *_DTYPES, *_MATRIX), 60),
    Step("calibrate", "how far this machine's verdicts can be trusted", 38, 36,
         ("humar-bench", "calibrate", "--device", "cuda", "--budget", "30", "--out", "{out}")),
    Step("cuda-tests", "what only a GPU can prove: clocks, kernels, graphs, no synchronisation", 50, 40,
         ("pytest", "-m", "cuda", "-q", "-rs", "tests", "--ignore", "tests/measures/test_cuda_memory.py")),
)


@dataclass
class Result:
    """What became of a step. `seconds` is None before it ran; `note` says why it was shortened, stopped, skipped or failed."""

    name: str
    shows: str
    status: str = WAITING
    seconds: float | None = None
    allowed_s: float | None = None
    exit_code: int | None = None
    note: str = ""
    command: str = ""


@dataclass(frozen=True)
class Ended:
    """How a step's process ended: its exit code (minus the signal's number when one ended it), and whether it had to be stopped."""

    exit_code: int
    stopped: bool = False


@dataclass
class Summary:
    """The page of a run: rewritten, whole, after every step."""

    folder: Path
    about: dict[str, Any]
    results: list[Result] = field(default_factory=list)

    def write(self) -> None:
        document = {**self.about, "steps": [asdict(each) for each in self.results]}
        write_text(self.folder / f"{SUMMARY}.json", json.dumps(document, indent=2) + "\n")
        write_text(self.folder / f"{SUMMARY}.md", self.text())

    def text(self) -> str:
        about = ", ".join(f"{name} {value}" for name, value in self.about.items() if name != "gpu")
        lines = [f"# {self.about.get('gpu', 'GPU')}", ""]
        lines += [f"Written by `make gpu`: {about}. What each step printed is in `logs/`.", ""]
        lines += ["| step | what it shows | status | seconds | command |", "| --- | --- | --- | ---: | --- |"]
        for each in self.results:
            status = f"{each.status}: {each.note}" if each.note else each.status
            seconds = "" if each.seconds is None else f"{each.seconds:.0f}"
            lines.append(f"| {each.name} | {each.shows} | {status} | {seconds} | {f'`{each.command}`' if each.command else ''} |")
        return "\n".join([*lines, ""])


def run_plan(
    steps: Sequence[Step], folder: Path, deadline_s: float, about: dict[str, Any], *, started_s: float | None = None,
    clock: Callable[[], float] = time.monotonic, run: Callable[[Sequence[str], Path, float], Ended] | None = None,
    say: Callable[[str], None] = print,
) -> Summary:
    """Every step in order, none past its share of the deadline. Returns the summary that is also on disk."""
    run = run or run_command
    started_s = clock() if started_s is None else started_s
    summary = Summary(folder, about, [Result(step.name, step.shows) for step in steps])
    summary.write()
    share, due_s = deadline_s / sum(step.limit_s for step in steps), started_s
    for step, result in zip(steps, summary.results, strict=True):
        due_s += share * step.limit_s
        began_s = clock()
        result.allowed_s = round(due_s - began_s, 1)
        if result.allowed_s < step.least_s:
            result.status, result.note = SKIPPED, f"{max(0.0, result.allowed_s):.0f} s were left and it needs {step.least_s:.0f} s"
        else:
            out, log = folder / step.name, folder / "logs" / f"{step.name}.txt"
            for place in (out, log.parent):
                place.mkdir(parents=True, exist_ok=True)
            typed = step.typed(_shown(out), result.allowed_s)
            result.status, result.command = RUNNING, shlex.join(typed)
            say(f"{step.name}: {step.shows} (at most {result.allowed_s:.0f} s)")
            summary.write()
            try:
                _judge(result, step, run(typed, log, result.allowed_s))
            except KeyboardInterrupt:
                result.status, result.note = STOPPED, "interrupted; what it had written is kept"
                raise
            finally:
                result.seconds = round(clock() - began_s, 1)
                _tables(out, result)
                summary.write()
        summary.write()
        say(f"{step.name}: {result.status}{f', {result.note}' if result.note else ''}")
    return summary


def _judge(result: Result, step: Step, ended: Ended) -> None:
    result.exit_code = ended.exit_code
    if ended.stopped:
        result.status, result.note = STOPPED, f"its {result.allowed_s:.0f} s were over; what it had written is kept"
    elif ended.exit_code < 0:
        result.status, result.note = FAILED, f"ended by {_signal_name(-ended.exit_code)}"
    elif ended.exit_code:
        words = "" if step.command[0] == "pytest" else WORDS.get(ended.exit_code, "")
        result.status, result.note = FAILED, f"exit code {ended.exit_code}{f', {words}' if words else ''}; see logs/{step.name}.txt"
    else:
        result.status = DONE
        if step.budget_s and result.allowed_s < step.limit_s:
            result.note = f"shortened to {result.allowed_s:.0f} of {step.limit_s:.0f} s"


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _tables(out: Path, result: Result) -> None:
    """Tables for a folder that holds only records, as `fps --records` and a step that was stopped leave it; no folder for nothing."""
    with contextlib.suppress(OSError):
        out.rmdir()
    if not (out / RECORDS_NAME).exists() or any((out / name).exists() for name in (REPORT_NAME, STUDY_NAME)):
        return
    with contextlib.suppress(HumarBenchError, ValueError, KeyError):  # an empty file, or a mixture that no one table shows
        RecordWriter(out).close()  # takes away a last line that was cut short
        write_report(load(out).latest(), out)
        if result.status != DONE:
            result.note += "; its tables are of what it had measured"


def run_command(typed: Sequence[str], log: Path, limit_s: float) -> Ended:
    """Run a command in the checkout, its output in `log`; asked to stop `GRACE_S` before its limit, killed with all it started at it."""
    module = {"humar-bench": "humar_bench", "pytest": "pytest"}[typed[0]]
    with open(log, "wb") as said:
        said.write(f"$ {shlex.join(typed)}\n".encode())
        said.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", module, *typed[1:]], stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, cwd=ROOT,
            start_new_session=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            return Ended(process.wait(max(limit_s - GRACE_S, 0.1)))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            return Ended(process.poll() or 0, stopped=True)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it, or what it left behind
            process.wait()


def _shown(path: Path) -> Path:
    """A path as a user in the checkout would type it."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def folder_name(gpu: str) -> str:
    """'NVIDIA H200' -> 'nvidia-h200'."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


def find_gpu() -> tuple[str, str]:
    """The first CUDA device's name, empty where there is none, and torch's version; asked in a process that ends, so that none of the
    device's memory stays taken."""
    code = "import torch; print(torch.__version__); print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    version, name, *_ = [*done.stdout.splitlines(), "", ""]
    return name.strip(), version.strip()


def fresh_folder(place: Path) -> Path:
    """An empty folder; what an earlier run left there is moved beside the other local results, which git ignores."""
    if place.exists() and any(place.iterdir()):
        kept = place.parent / "local" / f"{place.name}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        place.rename(kept)
    place.mkdir(parents=True, exist_ok=True)
    return place


def main(arguments: Sequence[str] | None = None) -> int:
    started_s = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deadline", type=float, default=DEADLINE_S, metavar="S", help="seconds for all steps (default %(default)g)")
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR", help="where <gpu>/ goes (default results)")
    asked = parser.parse_args(arguments)
    gpu, version = find_gpu()
    if not gpu:
        print(f"make gpu needs a CUDA device and torch {version or '(not installed)'} finds none here; make bench measures the CPU.",
              file=sys.stderr)
        return NO_DEVICE
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the running step is stopped, as by Ctrl-C
    folder = fresh_folder(asked.results.resolve() / folder_name(gpu))
    about = {"gpu": gpu, "torch": version, "deadline_s": asked.deadline, "began": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        summary = run_plan(STEPS, folder, asked.deadline, about, started_s=started_s)
    except KeyboardInterrupt:
        print(f"stopped; what was measured is in {folder}.", file=sys.stderr)
        return 130
    print(f"{folder / SUMMARY}.md says what ran.")
    return 1 if any(each.status in (FAILED, STOPPED) for each in summary.results) else 0


if __name__ == "__main__":
    sys.exit(main())
