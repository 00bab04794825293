"""Errors a user can cause. Each message names the thing, the value it had and a way out; the CLI prints it as one sentence."""

from __future__ import annotations

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
