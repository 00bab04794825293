"""What the files of a run folder hold: the type and the bounds of every field, held against what is read by `records.fields.faults`.

Standard library only. As in the records, a later version may add fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from humar_bench.records.fields import ABSENT, Count, Number, Positive, Seconds


@dataclass
class Checkpoint:
    """checkpoint.json."""

    step: Positive
    file: str
    log_bytes: Count
    pictures: Count
    wall_s: Seconds
    cpu_s: Seconds
    evaluation: dict[str, Number | None]
    schedule: dict[str, Any]
    scaler: dict[str, Any] | None = ABSENT


@dataclass
class StepLine:
    """A line of the log, of a step."""

    step: Positive
    pictures: Count
    wall_s: Seconds
    cpu_s: Seconds
    losses: dict[str, Number | None]
    lr: Number | None = ABSENT
    grad_norm: Number | None = ABSENT


@dataclass
class EvaluationLine:
    """A line of the log, of an evaluation."""

    step: Positive
    pictures: Count
    wall_s: Seconds
    cpu_s: Seconds
    ap: Number | None
    oks: Number | None
    ap50: Number | None = ABSENT
    ap75: Number | None = ABSENT
    pckh: Number | None = ABSENT


LINES: dict[str, type] = {"step": StepLine, "evaluation": EvaluationLine}  # by `kind`
