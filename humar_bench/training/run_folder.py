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
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from humar_bench.errors import MeasurementError, UsageError, one_line
from humar_bench.reading import parse_json, read_bytes
from humar_bench.records.appending import Appender
from humar_bench.records.record import json_text, plain
from humar_bench.training.picture_statistics import PictureStatistics
from humar_bench.training.train_args import TrainArgs

RUN, LOG, CHECKPOINT, EVALUATIONS, CURVE = "run.json", "log.jsonl", "checkpoint.json", "evaluations", "curve.png"
WEIGHTS = "checkpoint-{:08d}.safetensors"
FORMAT = 1  # of the folder; another number is another layout
MOST_JSON = 2**24
STATE = {  # of a checkpoint
    "step": int, "file": str, "log_bytes": int, "pictures": int, "wall_s": float, "cpu_s": float, "evaluation": dict, "schedule": dict,
}


class RunFolder:
    """One run's folder, for the process that trains. Raises UsageError where it cannot be used, MeasurementError where writing fails."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._log: Appender | None = None

    def start(self, options: TrainArgs, environment: Mapping[str, Any]) -> None:
        """A new run. Raises UsageError where the folder has one."""
        if (self.folder / RUN).exists():
            raise UsageError(f"{self.folder} already holds a run; go on with --resume, or name another folder.")
        try:
            (self.folder / EVALUATIONS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.folder} cannot be made: {error.strerror or error}; name another folder.") from error
        self._write(RUN, as_json({"format": FORMAT, "options": options.to_json(), "environment": environment}))
        self._open(0)

    def go_on(self, options: TrainArgs) -> dict[str, Any] | None:
        """An earlier run: its last checkpoint's state, None where it had none. Raises UsageError where it was of other options."""
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
            if old.name != name:
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
        self._log = Appender(self.folder / LOG)
        if len(self._log.content) < size:
            raise UsageError(f"{self.folder / LOG} is shorter than when its checkpoint was made; what is missing cannot be made again.")
        self._log.cut(size)

    def _write(self, name: str, content: bytes) -> None:
        write_atomically(self.folder / name, content)


def write_atomically(path: Path, content: bytes) -> None:
    """The whole file or, whatever happens, the one that was there. Raises MeasurementError where it cannot be written."""
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
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
        found = load_file(path)
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
    if not path.exists():
        return None
    state = _read(path)
    kinds = {name: type(state.get(name)) for name in STATE}
    known = all(kinds[name] is kind or kind is float and kinds[name] is int for name, kind in STATE.items())
    if not known or state["file"] != WEIGHTS.format(state["step"]):
        raise UsageError(f"{path} is no checkpoint that training wrote; start the run anew.")
    return state


def read_checkpoint(folder: str | Path, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint. Raises UsageError."""
    return read_tensors(Path(folder) / state["file"])


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """Every whole line of a run's log. Raises UsageError."""
    path = Path(folder) / LOG
    try:
        lines = read_bytes(path).splitlines(keepends=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; name a folder that train wrote.") from error
    try:
        return [json.loads(line) for line in lines if line.endswith(b"\n")]
    except ValueError as error:
        raise UsageError(f"{path} is no log of a training run: {error}.") from error


def read_evaluation(folder: str | Path, step: int) -> PictureStatistics:
    """What every picture counted in the evaluation after step `step`. Raises UsageError."""
    path = Path(folder) / EVALUATIONS / f"{step:08d}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return PictureStatistics.of_arrays(dict(arrays))
    except (OSError, ValueError, KeyError) as error:
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
