"""One measurement as one JSON line: what was asked, what was built, what was measured, where and when.

Every table can be made again from these lines alone, without torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from humar_bench.args import EAGER, EFFICIENT_PREFIX, ModelArgs
from humar_bench.errors import UsageError
from humar_bench.reading import MOST_LINE, parse_json, read_bytes
from humar_bench.table import is_unseen, well_formed

# History of the format, newest first; a change of a field's meaning raises the number.
# 1: measures params, flops, fps, memory and, since, component_time and end_to_end; one record per (measure, architecture), for fps per
# (architecture, process).
FORMAT = 1

RECORDS_NAME = "records.jsonl"
AGAIN = " (again)"  # ends the name of a control arm: the architecture before it, built and timed a second time
UNHELD = "no float32 forward"  # how the reason begins why outputs were held against nothing (running/arm.py)
COMPONENT_TIME = "component_time"  # a breakdown: no verdict comes from it
END_TO_END = "end_to_end"  # pictures as files in, people out, stage by stage: no verdict either, and only where it is asked for
MEASURES = ("params", "flops", "fps", COMPONENT_TIME, "memory")
ALL_MEASURES = (*MEASURES, END_TO_END)
CEILINGS, MACHINE = "ceilings", "this machine"  # a measure of no architecture: what the machine itself does at most
TRAINING = "training"  # one training run of an architecture, and what it scored; the study of accuracy makes it
STATUSES = ("ok", "failed")
KINDS = ("", "out of memory", "crash", "timeout", "not finite", "error")
# The RunArgs fields a measurement depends on: with the same ones it need not be made again.
RUN_FIELDS = {
    "params": ("dtype",),
    "flops": ("dtype",),
    "memory": ("device", "dtype", "seed", "threads"),
    "fps": ("device", "dtype", "backend", "seed", "threads", "processes", "first_look", "min_runs", "max_runs", "budget"),
    COMPONENT_TIME: ("device", "dtype", "seed", "threads", "processes", "max_runs", "budget"),
    END_TO_END: ("device", "dtype", "seed", "threads", "max_runs", "budget"),
    CEILINGS: ("device", "dtype", "threads"),
    TRAINING: ("device", "dtype", "threads"),
}
BEFORE = {"backend": EAGER, "first_look": 5}  # what a field of RunArgs meant in the records that were written before it was there
BEFORE_ASKED = {  # and a field of ModelArgs
    "efficient_sample_heads": 0, "efficient_look_mlp": False, "efficient_instance_iterations": 0, "efficient_sample_points": 1,
    "efficient_across_tokens": "instance", "efficient_decoder_mlp_ratio": 0,
    "efficient_rank": 0, "efficient_decoder": "own", "efficient_skeleton_hops": 0, "efficient_window": 0, "efficient_exit_below": 0.0,
    "efficient_encoder_samples": False,
}
BEFORE_OPTIM = {"front_end_share": 1.0}  # and a field of OptimArgs, in what a training run's workload says of its optimiser
WAS_DEFAULT = {  # what fields had as defaults, oldest first, until the named field came
    "efficient_look_mlp": {"efficient_cross_tokens": "instance"},
    "efficient_encoder_samples": {"efficient_encoder_sets": 2},
}
# Specs of what reads none of the replacement's fields: for these, another default there is no other measurement.
ORIGINALS, RINGS = ("", "original", "original-fused"), "humar_bench.studies.accuracy.rings:"
# What has to be equal for two records to be of the same machine and versions.
HOST_FACTS = ("cpu", "cores", "system", "machine", "python", "torch")
FACTS = ("device", "device_label", "threads", "driver", "cuda", "cudnn", *HOST_FACTS)
NEWLINE = b"\n"
BEGINS = b'{"measure": "'  # every record that was ever written


def workload_now(workload: Mapping[str, Any]) -> Mapping[str, Any]:
    """A workload as a record of today says it."""
    optim = workload.get("optim")
    return {**workload, "optim": BEFORE_OPTIM | optim} if isinstance(optim, dict) else workload


def defaults_then(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of ModelArgs when a record asked for this."""
    defaults = dataclasses.asdict(ModelArgs())
    for since, was in reversed(WAS_DEFAULT.items()):
        if since not in asked:
            defaults |= was
    return defaults


def measures_with(backend: str) -> tuple[str, ...]:
    """What can be measured where `backend` runs the forwards: only eager calls a model's components, so only there are they timed."""
    return tuple(measure for measure in MEASURES if measure != COMPONENT_TIME or backend == EAGER)


@dataclass(frozen=True)
class Record:
    """One finished or failed measurement.

    `asked` holds every ModelArgs field, `built` what an architecture made of them, `measured` the raw values (None when it failed);
    `kind` and `reason` say how and why it failed. `id` is a digest of all the rest.
    """

    measure: str
    architecture: str
    spec: str
    foreign: bool
    asked: dict[str, Any]
    workload: dict[str, Any]
    run: dict[str, Any]
    process: int = 0
    status: str = "ok"
    reason: str = ""
    kind: str = ""
    built: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    time: str = ""
    command: str = ""
    format: int = FORMAT
    id: str = ""

    def __post_init__(self) -> None:
        for name, known in (("measure", (*ALL_MEASURES, CEILINGS, TRAINING)), ("status", STATUSES), ("kind", KINDS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(map(repr, known))}.")
        if (self.status == "failed") != bool(self.kind) or (self.status == "failed") != (self.measured is None):
            raise ValueError(f"status {self.status!r} with kind {self.kind!r} and measured {type(self.measured).__name__}; a failed record "
                             "has a kind and no measured values, an ok record the reverse.")
        for name in ("asked", "workload", "run", "built", "environment", "measured"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        for name in ("architecture", "spec", "reason", "command"):
            object.__setattr__(self, name, well_formed(getattr(self, name)))
        if not self.time:
            object.__setattr__(self, "time", datetime.now(UTC).isoformat(timespec="microseconds"))
        if not self.id:
            object.__setattr__(self, "id", self.digest)

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def control_of(self) -> str:
        """The architecture that this record measured a second time, as a control; empty for an ordinary record."""
        return self.architecture.removesuffix(AGAIN) if self.architecture.endswith(AGAIN) else ""

    @property
    def key(self) -> str:
        """Equal for two records of the same measurement: the later one then replaces the earlier."""
        run = {name: self.asked_run(name) for name in RUN_FIELDS[self.measure]}
        asked = BEFORE_ASKED | self.asked
        if self.spec in ORIGINALS or self.spec.startswith(RINGS):
            asked = {name: value for name, value in asked.items() if not name.startswith(EFFICIENT_PREFIX)}
        parts = (self.measure, self.architecture, self.spec, self.process, asked, workload_now(self.workload), run)
        return json.dumps(parts, sort_keys=True)

    def asked_run(self, name: str) -> Any:
        """A field of RunArgs as this record was asked; an older record means the default that was then the only way."""
        return self.run.get(name, BEFORE.get(name))

    def _values(self) -> dict[str, Any]:
        """Every field; what is inside is plain already and not copied."""
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}

    @property
    def digest(self) -> str:
        """Digest of everything but the id; equal to the id unless the record was changed by hand."""
        values = self._values()
        del values["id"]
        return hashlib.sha256(json.dumps(values, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """One line, without its end. Values that are not finite numbers stand as null."""
        return json_text(self._values())

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Read one line. Raises ValueError with the reason when it is no record of a format this version reads."""
        values = parse_json(line, MOST_LINE)
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}, not an object")
        number = values.get("format")
        if number != FORMAT:
            raise ValueError(f"its format is {number!r}; this version reads format {FORMAT}")
        fields = {each.name: each for each in dataclasses.fields(cls)}
        if unknown := sorted(values.keys() - fields.keys()):
            raise ValueError(f"its field {unknown[0]!r} is unknown")
        if missing := [name for name in fields if name not in values]:
            raise ValueError(f"it lacks {missing[0]!r}")
        for kind, (names, words) in _JSON_KINDS.items():
            for name in names:
                if type(values[name]) is not kind:
                    raise ValueError(f"its {name} is not {words}")
        if values["measured"] is not None and not isinstance(values["measured"], dict):
            raise ValueError("its measured is neither an object nor null")
        return cls(**values)


_JSON_KINDS = {
    dict: (("asked", "workload", "run", "built", "environment"), "an object"),
    str: (("measure", "architecture", "spec", "status", "reason", "kind", "time", "command", "id"), "text"),
    int: (("process",), "a whole number"), bool: (("foreign",), "true or false"),
}


def failed_result(kind: str, reason: str) -> dict[str, Any]:
    """What a record holds of a measurement that failed, beside what was asked and where."""
    return {"status": "failed", "kind": kind, "reason": reason, "built": {}, "measured": None}


def other_machine(one: Record, other: Record) -> tuple[str, Any, Any] | None:
    """(fact, of one, of other): the first fact of machine or version in which two records differ that both know it, or None. Records of
    different measures may differ in the device and its threads: counting needs none."""
    for name in FACTS if one.measure == other.measure else HOST_FACTS:
        both = [record.environment.get(name) for record in (one, other)]
        if None not in both and both[0] != both[1]:
            return name, *both
    return None


_AS_IT_IS = {type(None), bool, int}


def plain(value: Any) -> Any:
    """The value as JSON knows it: dataclasses and mappings as dicts, sequences as lists, not-finite numbers as None, text `well_formed`.

    Raises TypeError for anything else, so that nothing is stored as the text of an object by accident.
    """
    kind = type(value)  # first what nearly every value is, by one look each: a record holds thousands
    if kind in _AS_IT_IS:
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    if kind is str:
        return value if value.isascii() else well_formed(value)
    if kind is dict:
        return {well_formed(key if type(key) is str else str(key)): plain(each) for key, each in value.items()}
    if kind is list:
        return [plain(each) for each in value]
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {well_formed(str(key)): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(each) for each in value)
    raise TypeError(f"a {type(value).__name__} cannot be stored in a record.")


def json_text(document: Any, indent: int | None = None) -> str:
    """A plain value as JSON that can be read as it is and be written anywhere: what a screen would act on, and half of a surrogate pair,
    which UTF-8 does not have, stand as JSON's own escapes. Equal to `json.dumps` in every other respect."""
    text = json.dumps(document, allow_nan=False, ensure_ascii=False, indent=indent, separators=(", ", ": ") if indent is None else None)
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(_escaped(each) if each not in "\n" and is_unseen(each) else each for each in text)  # it ends the lines of `indent`


def _escaped(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else json.dumps(character)[1:-1]


@dataclass(frozen=True)
class Run:
    """The records of one run in the order they were measured; `notes` says what was odd about the file."""

    records: tuple[Record, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "records", tuple(self.records))
        object.__setattr__(self, "notes", tuple(self.notes))

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]

    def select(
        self,
        *,
        measure: str | None = None,
        architecture: str | None = None,
        status: str | None = None,
        process: int | None = None,
    ) -> Run:
        """The records that match everything asked for."""
        wanted = (("measure", measure), ("architecture", architecture), ("status", status), ("process", process))
        found: Iterable[Record] = self.records
        for name, value in wanted:
            if value is not None:
                read = operator.attrgetter(name)
                found = [each for each in found if read(each) == value]
        return Run(tuple(found), self.notes)

    @property
    def architectures(self) -> tuple[str, ...]:
        """Names in the order of their first record, control arms and the machine itself left out."""
        return tuple(dict.fromkeys(each.architecture for each in self if not each.control_of and each.measure != CEILINGS))

    @property
    def failed(self) -> Run:
        return self.select(status="failed")

    def latest(self) -> Run:
        """The last record of each measurement: what a resumed run measured again replaces what had failed before."""
        last = {each.key: index for index, each in enumerate(self)}
        return Run(tuple(each for index, each in enumerate(self) if last[each.key] == index), self.notes)

    def plus(self, records: Iterable[Record]) -> Run:
        """This run with more records at its end."""
        return Run((*self.records, *records), self.notes)


def records_path(path: str | os.PathLike) -> Path:
    """The records file of a run: the path itself, or `records.jsonl` in it when it is a folder."""
    path = Path(path)
    return path / RECORDS_NAME if os.path.isdir(path) else path


def is_torn(last: bytes, *, alone: bool) -> bool:
    """Whether a file's last line, which has no end, is a record that its writer did not finish: it begins as every record does and is no
    JSON yet. Where no whole line is before it (`alone`) it must show all of that beginning, so that nobody's note is taken for one."""
    begun = last.rstrip(b"\0")  # what a power cut leaves of a block that was never written
    if not begun.startswith(BEGINS) and (alone or not BEGINS.startswith(begun)):
        return False
    try:
        json.loads(begun)
    except RecursionError:
        return False
    except ValueError:
        return True
    return False


def load(path: str | os.PathLike) -> Run:
    """Read a run from a records file or from the folder that holds one.

    A last line that was cut short (the writer was killed) is left out and noted. Raises UsageError, naming the line, for any other
    line that is not a record.
    """
    path = records_path(path)
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; name a run's folder or its {RECORDS_NAME}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    return records_in(content, str(path))


def records_in(content: bytes, path: str = RECORDS_NAME) -> Run:
    """The run that a records file's content holds; `path` is for sentences. Raises UsageError as `load` does."""
    records: list[Record] = []
    notes: list[str] = []
    lines = content.split(NEWLINE)
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        try:
            records.append(record_in(raw))
        except ValueError as error:
            if number == len(lines) and is_torn(raw, alone=not records):  # the writer stopped in the middle
                notes.append(f"{path} line {number} was cut short and is left out; that measurement has to be made again.")
                continue
            raise UsageError(f"{path} line {number} is not a record: {error}.") from None
    return Run(tuple(records), tuple(notes))


def record_in(line: bytes) -> Record:
    """The record that a line of a file holds. Raises ValueError with the reason, without a full stop, where it holds none."""
    try:
        return Record.from_json(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    except (ValueError, TypeError) as error:
        raise ValueError(str(error).rstrip(".")) from None


