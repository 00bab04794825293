"""Writing results to disk: checked before anything is measured, whole or not at all, one sentence when it fails."""

from __future__ import annotations

import contextlib
import os
import stat
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from humar_bench.errors import HumarBenchError, UsageError
from humar_bench.reading import is_null, what_else
from humar_bench.records.record import Run
from humar_bench.report.comparison import compare
from humar_bench.report.data import to_csv
from humar_bench.report.markdown import to_markdown

REPORT_NAME = "report.md"


def check_writable(path: str | os.PathLike, option: str) -> None:
    """Try what `write_text` will do, and leave nothing behind. Raises UsageError with one sentence."""
    target = _target(path)
    refuse_special(path, option)
    try:
        if os.path.isdir(target):
            raise IsADirectoryError(0, "it is a folder")
        if is_null(target):
            return
        with contextlib.suppress(FileNotFoundError):
            os.stat(path)  # a link that leads to itself would be replaced
        beside = _beside(target)
        open(beside, "xb").close()
        beside.unlink()
    except OSError as error:
        raise UsageError(f"{option} {str(path)!r} cannot be written: {error.strerror or error}; name a file that can.") from error


def refuse_within(path: str | os.PathLike, option: str, folder: str | os.PathLike | None, what: str) -> None:
    """Raises UsageError for an output that would replace a file in a folder which is read; `what` names the folder. None, and what is no
    folder, hold nothing."""
    target = _target(path)
    if folder is not None and os.path.isdir(folder) and os.path.exists(target) and target.is_relative_to(_target(folder)):
        raise UsageError(f"{option} {str(path)!r} is a file of {what} {str(folder)!r}, which is read; name another.")


def refuse_stream(path: str | os.PathLike, option: str) -> None:
    """Raises UsageError for standard output, where a file is needed."""
    if str(path) == "-":
        raise UsageError(f"{option} is -, and standard output cannot take it; name a file (./- for one of that name).")


def refuse_special(
    path: str | os.PathLike, option: str, *, null: bool = True, instead: str = "name a file, or - for standard output"
) -> None:
    """Raises UsageError for what is there and is neither a regular file nor a folder: opening a pipe waits for whoever reads it, perhaps
    forever, and what a device is given is nowhere afterwards. With `null` the null device is let through: who names it wants no file."""
    try:
        kind = what_else(os.stat(path).st_mode)
    except OSError:  # it is not there, or cannot be: whoever writes it says why
        return
    if kind not in ("", "a folder") and not (null and is_null(path)):
        raise UsageError(f"{option} {str(path)!r} is {kind} and only regular files are written; {instead}.")


def check_folder(path: str | os.PathLike, option: str) -> Path:
    """Make the folder where it is missing and try to write into it. Raises UsageError with one sentence."""
    folder = Path(path)
    probe = folder / f".humar-bench.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        open(probe, "xb").close()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"{option} {str(path)!r} cannot be written into: {error.strerror or error}; name a folder that can.") from error
    return folder


def refuse_shared(outputs: Mapping[str, str | os.PathLike], inputs: Mapping[str, str | os.PathLike]) -> None:
    """Raises UsageError, naming both, when two outputs are one file, or an output is a file that is read: by the same name, through links,
    or by names that differ only in case or in how a letter is composed, which are one file on many systems.

    Both map what the user calls a file to its path. Devices such as /dev/null take any number of outputs.
    """
    seen: list[tuple[str, set, bool]] = []
    for named, written in ((outputs, True), (inputs, False)):
        for option, path in named.items():
            marks, said = _marks(path), f"{option} {str(path)!r}" if option.startswith("-") else option
            for other, its, also_written in seen:
                if marks & its and (written or also_written):
                    what = "one file" if written and also_written else "one file, which is read"
                    raise UsageError(f"{other} and {said} are {what}; name another for one of the two.")
            seen.append((said, marks, written))


def _marks(path: str | os.PathLike) -> set[tuple]:
    """What tells that two paths are one file: the file itself where it is there, else its folder and its name on any system."""
    target = _target(path)
    marks: set[tuple] = set()
    with contextlib.suppress(OSError):
        found = os.stat(path)
        if stat.S_ISCHR(found.st_mode):
            return set()
        marks.add((found.st_dev, found.st_ino))
    with contextlib.suppress(OSError):
        folder = os.stat(target.parent)
        marks.add((folder.st_dev, folder.st_ino, unicodedata.normalize("NFC", target.name).casefold()))
    return marks or {(str(target),)}


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write the whole text, or leave what was there. Raises HumarBenchError with one sentence (a full disk, a folder that is gone)."""
    write_bytes(path, encoded(text))


def encoded(text: str) -> bytes:
    """As UTF-8; half of a surrogate pair, should one come this far, as its escape."""
    return text.encode("utf-8", errors="backslashreplace")


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write all of it, or leave what was there. Raises HumarBenchError with one sentence."""
    target = _target(path)
    try:
        if is_null(target):
            return
        if os.path.exists(target) and (kind := what_else(os.stat(target).st_mode)):  # put there since it was checked
            raise OSError(0, f"it is {kind}")
        beside = _beside(target)
        try:
            with open(beside, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
    except OSError as error:
        raise HumarBenchError(f"{path} could not be written: {error.strerror or error}; make room or name another place.") from error


def report_texts(run: Run, reference: str | None = None) -> dict[str, str]:
    """File name -> content: one CSV a measure and `report.md`, made from the records alone, the same whenever they are made.

    What a resumed run measured again replaces what it had before.
    """
    comparison = compare(run.latest(), reference)
    texts = {f"{measure}.csv": to_csv(table) for measure, table in comparison.data.items()}
    return {**texts, REPORT_NAME: f"# humar-bench report\n\n{to_markdown(comparison)}"}


def write_report(run: Run, directory: str | os.PathLike, reference: str | None = None) -> list[Path]:
    """Write `report_texts` into a folder. Returns the paths."""
    folder, texts = Path(directory), report_texts(run, reference)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _target(path: str | os.PathLike) -> Path:
    """Where a link points to, so that writing replaces the file and not the link."""
    return Path(os.path.realpath(path))


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.tmp")
