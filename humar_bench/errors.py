"""Errors a user can cause. Each message names the thing, the value it had and a way out; the CLI prints it as one sentence."""

from __future__ import annotations

import re

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_REGRESSION, EXIT_UNDECIDED, EXIT_INVALID = range(6)


class HumarBenchError(Exception):
    """Base of every error this package raises on purpose; `exit_code` is what the CLI ends with."""

    exit_code = EXIT_FAILED


class UsageError(HumarBenchError, ValueError):
    """A wrong argument, option, file or model input: nothing was measured because of it."""

    exit_code = EXIT_USAGE


class MeasurementError(HumarBenchError, RuntimeError):
    """A measurement that started and could not be finished (out of memory, a crash, an output that is not finite)."""


class InvalidMeasurement(HumarBenchError):
    """A measurement that finished and cannot be trusted (a control arm that differs, throttled clocks)."""

    exit_code = EXIT_INVALID


def install(extra: str) -> str:
    """The command that installs one of this package's extras."""
    return f'pip install "humar-bench[{extra}]"'


def not_installed(what: str, *packages: str, extra: str) -> UsageError:
    """The error for packages that are missing: `what` is the sentence up to their names, as in 'training needs'."""
    named, verb = ("package", "is") if len(packages) == 1 else ("packages", "are")
    return UsageError(f"{what} the {named} {' and '.join(packages)}, which {verb} not installed; run {install(extra)}.")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: Python's, the CPU allocator's or the accelerator's."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(said in text for said in ("can't allocate memory", "not enough memory", "out of memory"))


def one_line(error: BaseException) -> str:
    """An exception as part of one sentence: its type and the first line of what it says."""
    try:
        text = str(error)
    except Exception:  # somebody's own
        text = ""
    said = " ".join(text.strip().splitlines()[:1]).strip().rstrip(".")
    said = re.sub(r"^\[enforce fail at \S+\] \S+ == \S+\. (?=\S)", "", said)  # where in its source torch's allocator noticed
    said = said if len(said) <= 200 else said[:197] + "..."
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
