"""Whether a record can be used: every field there and within its bounds (`schema.py`), and no contradictions (`contradictions.py`)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from humar_bench.args import ModelArgs, RunArgs, Workload, read_workload
from humar_bench.errors import HumarBenchError, InvalidMeasurement, UsageError
from humar_bench.records import fields, schema
from humar_bench.records.contradictions import Facts, Measured, contradictions
from humar_bench.records.record import CEILINGS, TRAINING, failed_result

MOST_PROCESSES = 1_000_000


def impossible(record: Any) -> list[str]:
    """One sentence part for each field of a record that is missing or not of its type and bounds (`schema.py`, `args.py`)."""
    found = [f"{place}: {fault}" for place, kind in (("environment", schema.Environment), ("built", schema.Built))
             for fault in fields.faults(getattr(record, place), kind)]
    if not 0 <= record.process <= MOST_PROCESSES:
        found.append(f"process is {record.process}; it must be a whole number from 0 to {MOST_PROCESSES}")
    if record.measure == TRAINING:
        found += [*_asked(ModelArgs, record.asked, "asked")]
        found += [f"workload: {fault}" for fault in fields.faults(record.workload, schema.TrainingWork)]
    elif record.measure != CEILINGS:  # of a machine alone: neither arguments nor a workload take part
        found += [*_asked(ModelArgs, record.asked, "asked"), *_workload(record.workload)]
    found += _asked(RunArgs, record.run, "run")
    try:
        datetime.fromisoformat(record.time)
    except ValueError:
        found.append(f"time is {record.time!r}; it must be a date and time in ISO 8601")
    if record.measured is not None:
        found += _whole(record.measure, record.measured)
    return found


def _asked(kind: type, values: Facts, place: str) -> Iterator[str]:
    """Arguments as their own class checks them; what it does not know, a later version added."""
    if said := _refused(kind, json.dumps(values)):
        yield f"{place}: {said}"


@functools.lru_cache(maxsize=256)
def _refused(kind: type, text: str) -> str:
    """Why a class takes no such arguments. The records of a run were nearly all asked alike."""
    values = json.loads(text)
    try:
        kind(**{each.name: values[each.name] for each in dataclasses.fields(kind) if each.name in values})
    except (UsageError, TypeError) as error:
        return str(error).rstrip(".")
    return ""


def _workload(values: Facts) -> Iterator[str]:
    names = [each.name for each in dataclasses.fields(Workload)]
    if missing := [name for name in names if name not in values]:
        yield f"workload lacks {missing[0]}"
        return
    if said := _unreadable(json.dumps(values)):
        yield f"workload: {said}"


@functools.lru_cache(maxsize=256)
def _unreadable(text: str) -> str:
    """Why a workload cannot be read."""
    try:
        read_workload(json.loads(text))
    except (UsageError, TypeError, ValueError) as error:
        return str(error).rstrip(".")
    return ""


def faults(record: Any) -> list[str]:
    """Everything that is wrong with what a record holds: fields that cannot be and, where there are none, contradictions."""
    if found := impossible(record):
        return found
    found = [] if record.measured is None else contradictions(record.measure, record.measured, record.workload, record.environment)
    return [f"it contradicts itself: {fault}" for fault in found]


def audited(name: str, measure: str, result: Mapping[str, Any], workload: Facts, environment: Facts) -> dict[str, Any]:
    """A child's result for one architecture, or a failed one that says what in it cannot be or how it contradicts itself."""
    measured, said = result["measured"], f"the {measure} of {name}"
    if measured is None:
        return dict(result)
    if found := _whole(measure, measured):
        reason = f"{said} cannot be: {'; '.join(found)}."
    elif found := contradictions(measure, measured, workload, environment):
        reason = f"{said} contradict themselves: {'; '.join(found)}."
    else:
        return dict(result)
    return failed_result("error", reason)


def _whole(measure: str, measured: Measured) -> list[str]:
    """What of the fields of a measurement is missing or cannot be."""
    found = fields.faults(measured, schema.MEASURED[measure])
    return [*found, "it holds no time"] if measure == "fps" and measured.get("wall_s") == [] else found


def suspect(records: Iterable[Any]) -> str:
    """One sentence about the first record that was changed after it was measured, contradicts itself or lacks what a table reads; nothing
    where all are sound."""
    for record in records:
        found = ["it was changed after it was measured"] if record.id != record.digest else []
        if found := found + faults(record):
            return f"the {record.measure} record of {record.architecture}, process {record.process}, cannot be used: {'; '.join(found)}."
    return ""


@contextlib.contextmanager
def readable(records: Iterable[Any]) -> Iterator[None]:
    """Around work on records: where it fails on a value and a record is suspect, InvalidMeasurement names that record."""
    try:
        yield
    except HumarBenchError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if said := suspect(records):
            raise InvalidMeasurement(f"{said.rstrip('.')}; humar-bench verify names all of them.") from error
        raise


