"""What a training run leaves behind, written so that a kill at any moment loses nothing but the steps since the last checkpoint.

    run.json            options, versions, machine
    log.jsonl           a line every few steps, and one an evaluation
    checkpoint.json     where the run is: its step, the weights' file, the length of the log then
    checkpoint-N.safetensors   weights, moving average and optimiser after step N
    evaluations/N.npz   what each picture counted in the evaluation after step N (`PictureStatistics`)

`checkpoint.json` is replaced last, so it always names a whole file; lines of the log past its length were written after it and are made
again. Nothing here is pickled.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from humar_bench.args import shown
from humar_bench.errors import MeasurementError, UsageError, one_line
from humar_bench.reading import is_null, open_regular, parse_json, read_bytes, read_lines, what_else
from humar_bench.records.appending import Appender
from humar_bench.records.fields import faults
from humar_bench.records.record import json_text, plain
from humar_bench.training import run_schema
from humar_bench.training.picture_statistics import PictureStatistics
from humar_bench.training.train_args import TrainArgs

RUN, LOG, CHECKPOINT, EVALUATIONS, CURVE = "run.json", "log.jsonl", "checkpoint.json", "evaluations", "curve.png"
WEIGHTS = "checkpoint-{:08d}.safetensors"
_OURS = re.compile(r"checkpoint-\d{8,}\.safetensors")  # beside them may lie what a user calls checkpoint-best
FORMAT = 1  # of the folder; another number is another layout
MOST_JSON = 2**24
MOST_EVALUATION = 2**31  # bytes of the arrays of one evaluation


class RunFolder:
    """One run's folder, for the process that trains. Raises UsageError where it cannot be used, MeasurementError where writing fails."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._log: Appender | None = None

    def start(self, options: TrainArgs, environment: Mapping[str, Any]) -> None:
        """A new run. Raises UsageError where the folder has one, or a file of somebody's that a run would write over."""
        if os.path.lexists(self.folder / RUN):
            raise UsageError(f"{self.folder} already holds a run; go on with --resume, or name another folder.")
        if there := next(_written_over(self.folder), None):
            raise UsageError(f"{self.folder} already holds {there}, which would be written over; name another folder.")
        try:
            (self.folder / EVALUATIONS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.folder} cannot be made: {error.strerror or error}; name another folder.") from error
        self._write(RUN, as_json({"format": FORMAT, "options": options.to_json(), "environment": environment}))
        self._open(0)

    def go_on(self, options: TrainArgs) -> dict[str, Any] | None:
        """An earlier run: its last checkpoint's state, None where it had none. Raises UsageError where it was of other options."""
        _refuse_strange(self.folder)
        before = read_options(self.folder)
        if before != options:
            other = _difference(before, options)
            raise UsageError(f"{self.folder} was trained with another {other}; ask for the same, or for a new folder.")
        state = read_state(self.folder)
        self._open(0 if state is None else state["log_bytes"])
        return state

    def log(self, line: Mapping[str, Any]) -> None:
        """One line, on the disk when this returns."""
        self._log.append(json_text(plain(dict(line))).encode() + b"\n", "a line of the log")

    def keep(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """A checkpoint in place of the one before."""
        name = WEIGHTS.format(step)
        self._write(name, as_safetensors(tensors))
        self._write(CHECKPOINT, as_json({"step": step, "file": name, "log_bytes": len(self._log.content), **state}))
        for old in self.folder.glob("checkpoint-*.safetensors"):
            if old.name != name and _OURS.fullmatch(old.name):
                old.unlink(missing_ok=True)

    def keep_evaluation(self, step: int, statistics: PictureStatistics) -> None:
        """What every picture counted."""
        held = io.BytesIO()
        np.savez_compressed(held, **statistics.arrays())
        self._write(f"{EVALUATIONS}/{step:08d}.npz", held.getvalue())

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def _open(self, size: int) -> None:
        self._log = Appender(self.folder / LOG, self._accept)
        if len(self._log.content) < size:
            raise UsageError(f"{self.folder / LOG} is shorter than when its checkpoint was made; what is missing cannot be made again.")
        self._log.cut(size)

    def _accept(self, first: bytes) -> None:
        """Refuse to cut and go on with what is no log, such as somebody's file behind a link."""
        if first and not first.startswith(_LOG_BEGINS):
            said = f"{self.folder / LOG} is no log of a training run: it begins with {first[:40]!r}"
            raise UsageError(f"{said}; name a folder that train wrote.")

    def check(self) -> None:
        """Raises OutputLost unless the log is still there, as it was left."""
        if self._log is not None:
            self._log.check()

    def _write(self, name: str, content: bytes) -> None:
        self.check()  # so that a folder that is gone is called that, and not a full disk
        write_atomically(self.folder / name, content)


_LOG_BEGINS = b'{"kind": '


def _refuse_strange(folder: Path) -> None:
    """Raises UsageError where one of a run's files is a link, which would lead out of its folder, or no file."""
    for name in (RUN, LOG, CHECKPOINT, CURVE, EVALUATIONS):
        path = folder / name
        with contextlib.suppress(FileNotFoundError):
            kind = what_else(path.lstat().st_mode)
            if kind != ("a folder" if name == EVALUATIONS else ""):
                raise UsageError(f"{path} is {kind or 'a file'}, as train never writes it; name a folder that train wrote.")


def _written_over(folder: Path) -> Iterator[str]:
    """What a new run would write over, or take for its own."""
    with contextlib.suppress(OSError):
        for each in sorted(os.listdir(folder)):
            held = each in (LOG, CHECKPOINT, CURVE) or bool(_OURS.fullmatch(each))
            if held or each == EVALUATIONS and (not os.path.isdir(folder / each) or os.listdir(folder / each)):
                yield each


def write_atomically(path: Path, content: bytes) -> None:
    """The whole file or, whatever happens, the one that was there. Raises MeasurementError where it cannot be written, as what is no
    regular file cannot."""
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{target.name}.part")
    try:
        if is_null(target):
            return
        if os.path.exists(target) and (kind := what_else(os.stat(target).st_mode)):
            raise OSError(0, f"it is {kind}")
        part.unlink(missing_ok=True)  # of a run that was killed
        with open(part, "xb") as file:  # through no link
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        said = f"{path} could not be written: {error.strerror or error}; what was there before is kept, make room and go on with --resume."
        raise MeasurementError(said) from error


def as_json(document: Mapping[str, Any]) -> bytes:
    return json_text(plain(dict(document)), indent=1).encode() + b"\n"


def as_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises UsageError."""
    from safetensors.torch import load_file

    from humar_bench.subjects.checkpoint import refuse_odd

    try:
        open_regular(path).close()  # the reader would wait for a pipe
        found = load_file(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}; name a file that training wrote.") from error
    except Exception as error:  # the reader has its own errors for a file it cannot parse
        raise UsageError(f"{path} cannot be read as weights ({one_line(error)}); name a file that training wrote.") from error
    refuse_odd(found, str(path))
    return found


def read_options(folder: str | Path) -> TrainArgs:
    """The options of a run. Raises UsageError where the folder holds none."""
    content = _read(Path(folder) / RUN)
    if content.get("format") != FORMAT or not isinstance(content.get("options"), dict):
        raise UsageError(f"{Path(folder) / RUN} is of no training run that this version reads; name a folder that train wrote.")
    return TrainArgs.of_json(content["options"])


def read_state(folder: str | Path) -> dict[str, Any] | None:
    """What the last checkpoint says: `step`, `file`, ...; None where there is none yet. Raises UsageError for a broken one."""
    path = Path(folder) / CHECKPOINT
    if not os.path.exists(path):
        return None
    state = _read(path)
    wrong = faults(state, run_schema.Checkpoint)
    if not wrong and state["file"] != WEIGHTS.format(state["step"]):
        wrong = [f"file is {shown(state['file'])} and step is {state['step']}"]
    if wrong:
        raise UsageError(f"{path} is no checkpoint that training wrote: {wrong[0]}; start the run anew.")
    return state


def read_checkpoint(folder: str | Path, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint. Raises UsageError."""
    return read_tensors(Path(folder) / state["file"])


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """Every whole line of a run's log. Raises UsageError."""
    path = Path(folder) / LOG
    try:
        return [_log_line(line) for line in read_lines(path) if line.endswith(b"\n")]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; name a folder that train wrote.") from error
    except ValueError as error:
        raise UsageError(f"{path} is no log of a training run: {error}.") from error


def _log_line(text: bytes) -> dict[str, Any]:
    """Raises ValueError for what is none."""
    line = parse_json(text)
    kind = line.get("kind") if isinstance(line, dict) else None
    if not isinstance(kind, str) or kind not in run_schema.LINES:
        raise ValueError(f"it holds a line of the kind {shown(kind)}")
    if wrong := faults(line, run_schema.LINES[kind]):
        raise ValueError(wrong[0])
    return line


_NO_EVALUATION = (OSError, EOFError, ValueError, LookupError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_evaluation(folder: str | Path, step: int) -> PictureStatistics:
    """What every picture counted in the evaluation after step `step`. Raises UsageError."""
    path = Path(folder) / EVALUATIONS / f"{step:08d}.npz"
    try:
        with open_regular(path) as file:
            with zipfile.ZipFile(file) as inside:
                if sum(each.file_size for each in inside.infolist()) > MOST_EVALUATION:
                    raise ValueError(f"its arrays are larger than {MOST_EVALUATION / 2**20:,.0f} MiB, the most that is read")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return PictureStatistics.of_arrays(dict(arrays))
    except _NO_EVALUATION as error:
        raise UsageError(f"{path} cannot be read as an evaluation ({one_line(error)}); name a step that was evaluated.") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_bytes(path, MOST_JSON))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; name a folder that train wrote.") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({one_line(error)}); name a folder that train wrote.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no object; name a folder that train wrote.")
    return content


def _difference(before: TrainArgs, now: TrainArgs) -> str:
    """The first option that differs, with both values."""
    one, other = before.to_json(), now.to_json()
    flat = [{**{k: v for k, v in each.items() if not isinstance(v, dict)},
             **{f"{k}.{n}": w for k, v in each.items() if isinstance(v, dict) for n, w in v.items()}} for each in (one, other)]
    name = next(name for name in flat[0] if flat[0][name] != flat[1][name])
    return f"{name}, {flat[0][name]} and not {flat[1][name]}"
