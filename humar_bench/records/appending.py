"""A file that only grows while a run goes on: each piece is on the disk before the next is measured, and nothing that happens to the file
behind our back goes unnoticed. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from humar_bench.errors import MeasurementError, UsageError
from humar_bench.reading import MOST_BYTES, what_else

LOCK_WAIT_S = 1.0  # a writer killed while it started a child leaves its lock to that child until the child's program is loaded
FIRST_BYTES = 4096  # enough to see what a file is before all of it is read
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP)  # a file system that cannot
_HOW = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_SPECIAL = "{path} is {kind}, and what is appended to one is lost; name a file."


class OutputLost(MeasurementError):
    """The file that a run appends to was removed, renamed, replaced or cut while it went on. `content` is all that should stand in it,
    `kept` the file in which it stands now; None where no place could be found for it."""

    def __init__(self, path: Path, happened: str, content: bytes, kept: Path | None) -> None:
        where = f"is in {kept}" if kept else "could be written nowhere else"
        what = f"all that was measured {where}" if content else "nothing had been measured"
        super().__init__(f"{path} {happened} while the run went on, so it stopped; {what}.")
        self.content, self.kept = content, kept


class Appender:
    """Appends to a file, one process at a time. Whatever stood in it when it was opened is in `content`, which `append` adds to.

    `accept` is given the first bytes of a file that is there, and raises UsageError where it is none to append to. Raises UsageError when
    the file cannot be opened or another process appends to it.
    """

    def __init__(self, path: Path, accept: Callable[[bytes], None] = lambda first: None) -> None:
        self.path, self.content = path, b""
        self._absolute = path.absolute()  # for when the current folder is gone too
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _refuse_special(path)  # before it is opened: a device may do something then
            self._file = os.open(path, _HOW, 0o666)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}; name another output folder.") from None
        try:
            if kind := what_else(os.fstat(self._file).st_mode):  # put there in between
                raise UsageError(_SPECIAL.format(path=path, kind=kind))
            self._lock()
            with open(self._file, "rb", closefd=False) as file:
                accept(first := file.read(FIRST_BYTES))
                self.content = first + file.read(MOST_BYTES)
            if os.fstat(self._file).st_size > len(self.content):
                raise UsageError(f"{path} is larger than {MOST_BYTES / 2**20:,.0f} MiB, the most that is read; name another file.")
            _sync_folder(path.parent)
        except OSError as error:
            self.close()
            raise UsageError(f"{path} cannot be read: {error.strerror}; name another file.") from None
        except BaseException:
            self.close()
            raise

    def cut(self, size: int) -> None:
        """Keep only so many bytes of what stood in the file when it was opened."""
        os.ftruncate(self._file, size)
        self.content = self.content[:size]

    def append(self, piece: bytes, what: str) -> None:
        """All of the piece or none of it. Raises OutputLost when something happened to the file, MeasurementError when it cannot be
        written; the sentence names `what` it is."""
        if resized := self._resized():  # then what follows would stand in the wrong place
            self.content += piece
            raise self._lost(resized)
        try:
            left = memoryview(piece)
            while left:
                left = left[os.write(self._file, left) :]
            _sync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, len(self.content))
            said = f"{what} could not be written to {self.path}: {error.strerror}; the records before it are kept."
            raise MeasurementError(said) from None
        self.content += piece
        self.check()

    def check(self) -> None:
        """Raises OutputLost unless the file is still there, under its name, as it was left."""
        if self._file >= 0 and (happened := self._resized() or self._gone()):
            raise self._lost(happened)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _resized(self) -> str:
        """Who changed its size since the last look, as part of a sentence; nothing for one that is as it was left."""
        size, expected = os.fstat(self._file).st_size, len(self.content)
        if size == expected:
            return ""
        return f"was {'cut' if size < expected else 'written into by something else'} ({expected} bytes, now {size})"

    def _gone(self) -> str:
        try:
            there = os.stat(self.path)
        except OSError:
            return "was removed or renamed"
        return "" if os.path.samestat(os.fstat(self._file), there) else "was replaced by another file"

    def _lost(self, happened: str) -> OutputLost:
        kept = self._whereabouts() or self._copied() if self.content else None
        return OutputLost(self.path, happened, self.content, kept)

    def _whereabouts(self) -> Path | None:
        """Where the file is now, whole, under another name (Linux tells)."""
        with contextlib.suppress(OSError):
            own, place = os.fstat(self._file), Path(os.readlink(f"/proc/self/fd/{self._file}"))
            if own.st_size == len(self.content) and place.is_absolute() and os.path.samestat(own, os.stat(place)):
                return place
        return None

    def _copied(self) -> Path | None:
        """All of it in a new file, in the nearest folder that is still there."""
        folder = next((each for each in self._absolute.parents if os.path.isdir(each)), Path(tempfile.gettempdir()))
        for place in (folder, Path(tempfile.gettempdir())):
            kept = place / f"{self.path.stem}.kept-{os.getpid()}{self.path.suffix}"
            with contextlib.suppress(OSError), open(kept, "xb") as file:
                file.write(self.content)
                file.flush()
                os.fsync(file.fileno())
                return kept
        return None

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not a POSIX system
            return
        give_up_s = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > give_up_s:
                    said = f"{self.path} is being written by another humar-bench; wait for it or name another output folder."
                    raise UsageError(said) from None
                time.sleep(0.05)
            except OSError:  # a file system without locks
                return


def _refuse_special(path: Path) -> None:
    """Raises UsageError for what is there and is no regular file; a folder is refused when it is opened."""
    with contextlib.suppress(OSError):
        if (kind := what_else(os.stat(path).st_mode)) not in ("", "a folder"):
            raise UsageError(_SPECIAL.format(path=path, kind=kind))


def _sync(file: int) -> None:
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _sync_folder(folder: Path) -> None:
    """The new file's name itself must survive a power cut."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
