"""What a study of accuracy keeps in its folder beside records and tables, and that what is found there is what the study left.

    runs/                    a folder a run, which goes on from its last checkpoint; one that teaches others keeps it
    rendered/                people drawn once for all runs (`data/rendered.py`), gone when the study is complete
    front_end.safetensors    the weights before the transformer that all runs begin with
    front_end.json           what they were trained with, and their SHA-256

Nothing found is believed for its name: weights have to be those that `front_end.json` tells of, and those that earlier runs say they began
with. No torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from humar_bench.args import EFFICIENT_PREFIX
from humar_bench.errors import InvalidMeasurement, UsageError
from humar_bench.reading import open_regular, parse_json, read_bytes, what_else
from humar_bench.records.record import Record
from humar_bench.report.files import write_text
from humar_bench.training.train_args import TrainArgs

RUNS, RENDERED, FRONT_END, FRONT_END_OF = "runs", "rendered", "front_end.safetensors", "front_end.json"
WEIGHTS = "checkpoint-*.safetensors"  # in the folder of a run
PLACES = (RUNS, RENDERED, FRONT_END, FRONT_END_OF)
MOST_JSON = 2**20
_SETS = re.compile(r"\.?people-v\d+-[\w.-]+")  # how `data/rendered.py` calls a set, and one that is being drawn


def digest(path: str | Path) -> str:
    """SHA-256 of a regular file. Raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short(found: str) -> str:
    """As much of a digest as a record holds."""
    return found[:16]


def refuse_link(path: Path) -> None:
    """Raises UsageError for a link, which would lead out of the study's folder."""
    if os.path.islink(path):
        raise UsageError(f"{path} is a link, as no study writes it; move it away and resume again.")


def refuse_strange(folder: Path) -> None:
    """Raises UsageError where one of the places is a link, which would lead out of the folder, or of another kind."""
    for name in PLACES:
        path, wanted = folder / name, "a folder" if name in (RUNS, RENDERED) else ""
        with contextlib.suppress(FileNotFoundError):
            found = what_else(path.lstat().st_mode)
            if found != wanted:
                raise UsageError(f"{path} is {found or 'a file'}, as no study writes it; move it away and resume again.")


def front_end_there(folder: Path, options: TrainArgs) -> bool:
    """Whether the weights that all runs begin with are there, as this study trained them. Raises UsageError for others; where nothing says
    what they are, they were not finished and are trained anew."""
    if not os.path.exists(folder / FRONT_END) or not os.path.exists(folder / FRONT_END_OF):
        return False
    try:
        told = parse_json(read_bytes(folder / FRONT_END_OF, MOST_JSON))
        same = told["sha256"] == digest(folder / FRONT_END) and _decisive(told["options"]) == _decisive(options.to_json())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        same = False
    if not same:
        raise UsageError(
            f"{folder / FRONT_END} is not what this study trained ahead: {FRONT_END_OF} tells of other weights or options; ask for what "
            "the study was begun with, or remove both."
        )
    return True


def keep_front_end(folder: Path, options: TrainArgs) -> None:
    """Write down what the weights are, once they are whole."""
    told = {"options": _decisive(options.to_json()), "sha256": digest(folder / FRONT_END)}
    write_text(folder / FRONT_END_OF, json.dumps(told, indent=1) + "\n")


def hold_runs(folder: Path, records: Iterable[Record]) -> None:
    """Raises InvalidMeasurement where earlier runs began with other weights than the ones there."""
    own = short(digest(folder / FRONT_END))
    for record in records:
        told = record.measured.get("front_end") if record.ok else None
        if told and told != own:
            raise InvalidMeasurement(
                f"the run of {record.architecture} with seed {record.process} began with the weights {told} before the transformer, and "
                f"{folder / FRONT_END} holds {own}; they cannot be compared, begin a new study in another folder."
            )


def remove_rendered(folder: Path) -> None:
    """Take away the people that were drawn, which are large and can be drawn again, and nothing else that may lie beside them."""
    place = folder / RENDERED
    if os.path.islink(place) or not os.path.isdir(place):
        return
    for each in place.iterdir():
        if _SETS.fullmatch(each.name) and os.path.isdir(each) and not os.path.islink(each):
            shutil.rmtree(each, ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty
        place.rmdir()


def _decisive(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide the weights: all but paths of this machine, the runs' optimiser, who draws, and the transformer, which is
    built behind them and not used; the replacement's own fields, of which a later version has more, are of no other."""
    model = {name: value for name, value in options["model"].items() if not name.startswith(EFFICIENT_PREFIX)}
    return {name: value for name, value in options.items() if name not in ("rendered", "arch", "optim", "workers")} | {"model": model}
