"""The storage that processes of one search share: an Optuna study in a journal file, through which each sees what the others looked at.

Optuna writes every parameter of a trial apart, each with a sync, so that a trial of fifteen takes 75 ms. Here a process asks and tells its
own study in memory, and adds each trial that is done to the shared one whole, in one line; before each batch it takes in the trials of
the others. NSGA-II then breeds from all of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humar_bench.args import ModelArgs, Workload
from humar_bench.errors import MeasurementError, UsageError, not_installed, one_line
from humar_bench.reading import MOST_BYTES, open_regular, read_bytes, what_else
from humar_bench.studies.search.space import Space

if TYPE_CHECKING:
    import optuna

JOURNAL, STUDY = "search.journal", "humar-bench search"
FORMAT = 1  # of what the journal says about itself
COSTS = ("matmul_flops", "peak_bytes", "parameters")  # less is better
GAINS = ("capacity", "mixing_flops")  # more is better: what the costs are paid for, before anything is trained
OBJECTIVES = (*COSTS, *GAINS)
DIRECTIONS = ("minimize",) * len(COSTS) + ("maximize",) * len(GAINS)
BY = "process"  # which one looked at a trial


@dataclass(frozen=True)
class Seen:
    """One design that was looked at: its costs and what it has for them, by `OBJECTIVES`, and whether it keeps within the bounds."""

    design: ModelArgs
    values: tuple[float, ...]
    allowed: bool


def library() -> Any:
    """Optuna, quiet. Raises UsageError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise not_installed("search needs", "optuna", extra="search") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_shared(journal: str | os.PathLike, space: Space, work: Workload, bounds: Mapping[str, float]) -> optuna.Study:
    """The shared study, begun where it is not there yet. Raises UsageError for a file that is none, or of another search, and
    MeasurementError where it cannot be written."""
    optuna, path = library(), Path(journal)
    refuse_strange(path)
    told = {"format": FORMAT, "space": space.plain(), "workload": _plain(work), "bounds": dict(bounds), "objectives": list(OBJECTIVES)}
    with _reading(path):
        _mend(path)
        backend = optuna.storages.journal.JournalFileBackend(str(path), lock_obj=_Lock(path))
        study = optuna.create_study(
            study_name=STUDY, storage=optuna.storages.JournalStorage(backend), directions=list(DIRECTIONS), load_if_exists=True
        )
        before = study.user_attrs.get("search")
        if before is None and not study.get_trials(deepcopy=False):
            study.set_user_attr("search", told)
            before = told
    if before != told:
        other = next((name for name in told if not isinstance(before, dict) or before.get(name) != told[name]), "format")
        raise UsageError(f"{path} is of a search with another {other}; ask for the same, or search in another folder.")
    return study


def complete(study: optuna.Study, path: str | os.PathLike) -> list[Any]:
    """Its finished trials. Raises UsageError, MeasurementError."""
    with _reading(Path(path)):
        return study.get_trials(deepcopy=False, states=(library().trial.TrialState.COMPLETE,))


def seen_in(study: optuna.Study, space: Space, path: str | os.PathLike) -> list[Seen]:
    """Every design that was looked at, once, in the order of the shared study. Raises UsageError where a trial is none of the space."""
    found: dict[ModelArgs, Seen] = {}
    for trial in complete(study, path):
        point = trial.params
        if point.keys() != space.values.keys() or any(value not in space.values[name] for name, value in point.items()):
            raise UsageError(f"{path} holds a design that is not in what is searched; search in another folder.")
        design = space.design(point)
        values = tuple(trial.values)
        if design is None or len(values) != len(OBJECTIVES) or not all(math.isfinite(each) and each >= 0 for each in values):
            raise UsageError(f"{path} holds figures of a design that cannot be; search in another folder.")
        found.setdefault(design, Seen(design, values, trial.user_attrs.get("allowed") is True))
    return list(found.values())


def keep_pace(study: optuna.Study, path: str | os.PathLike, a_minute: float) -> None:
    """Write down how many designs a minute were looked at."""
    with _reading(Path(path)):
        study.set_user_attr("a_minute", a_minute)


def pace_of(study: optuna.Study) -> float | None:
    """How many designs a minute were looked at when it was last done."""
    found = study.user_attrs.get("a_minute")
    return float(found) if isinstance(found, (int, float)) and math.isfinite(found) and found >= 0 else None


def _plain(work: Workload) -> dict[str, Any]:
    return {**dataclasses.asdict(work), "feature_sizes": [list(each) for each in work.feature_sizes]}


_BEGINS = b'{"op_code":'


def refuse_strange(path: Path) -> None:
    """Raises UsageError for what is there and is no journal: Optuna would write behind whatever it finds."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; name another file.") from None
    kind = what_else(found.st_mode)
    if kind or found.st_size > MOST_BYTES:
        said = kind or f"larger than {MOST_BYTES / 2**20:,.0f} MiB"
        raise UsageError(f"{path} is {said}, as no search leaves it; move it away, or search in another folder.")
    try:
        with open_regular(path) as file:
            first = file.read(len(_BEGINS))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}; name another file.") from error
    if first and first != _BEGINS:
        raise UsageError(f"{path} is no journal of a search: it begins with {first!r}; name another file.")


class _Lock:
    """One process at a time writes. The system lets go of it when its process is gone, where Optuna's own, a link beside the file, would
    stay after a kill; and one that leads nowhere, because its folder was moved or it was named from the current one, for ever."""

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, -1

    def acquire(self) -> bool:
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        with contextlib.suppress(ImportError):  # not a POSIX system
            import fcntl

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX)
            except OSError:  # a file system without locks
                pass
            except BaseException:
                self.release()
                raise
        return True

    def release(self) -> None:
        os.close(self._file)
        self._file = -1


def _mend(path: Path) -> None:
    """Cut what a process that was killed left of a line at the end; Optuna would write on behind it, and read nothing more."""
    lock = _Lock(path)
    if not os.path.exists(path) or read_bytes(path).endswith(b"\n"):
        return
    lock.acquire()
    try:
        content = read_bytes(path)  # as it is now that nobody writes
        os.truncate(path, content.rfind(b"\n") + 1)
    finally:
        lock.release()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What Optuna cannot read or write, as one sentence."""
    try:
        yield
    except OSError as error:
        raise MeasurementError(f"{path} cannot be written: {error.strerror or error}; make room or name another folder.") from error
    except (ValueError, LookupError, TypeError, AssertionError, AttributeError, OverflowError, RecursionError) as error:
        raise UsageError(f"{path} is no journal of a search ({one_line(error)}); move it away, or search in another folder.") from error
