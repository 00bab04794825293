"""Writing results to disk: checked before anything is measured, whole or not at all, one sentence when it fails."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from humar_bench.errors import HumarBenchError, UsageError
from humar_bench.records.record import Run
from humar_bench.report.comparison import compare
from humar_bench.report.data import to_csv
from humar_bench.report.markdown import to_markdown

REPORT_NAME = "report.md"


def check_writable(path: str | os.PathLike, option: str) -> None:
    """Try what `write_text` will do, and leave nothing behind. Raises UsageError with one sentence."""
    target = _target(path)
    try:
        if target.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if _in_place(target):
            open(target, "ab").close()
            return
        beside = _beside(target)
        open(beside, "xb").close()
        beside.unlink()
    except OSError as error:
        raise UsageError(f"{option} {str(path)!r} cannot be written: {error.strerror or error}; name a file that can.") from error


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


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write the whole text, or leave what was there. Raises HumarBenchError with one sentence (a full disk, a folder that is gone)."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write all of it, or leave what was there. Raises HumarBenchError with one sentence."""
    target = _target(path)
    try:
        if _in_place(target):
            with open(target, "wb") as file:
                file.write(content)
            return
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


def _in_place(target: Path) -> bool:
    """Pipes and devices are written as they are; only files can be replaced."""
    return target.exists() and not target.is_file()


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.tmp")
