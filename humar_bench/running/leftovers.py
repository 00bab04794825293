"""What a killed run leaves behind: folders in the temporary folder, and processes that a child started in a session of their own.

Both carry the process that owns them, by its number and start, so that whoever comes next can tell whether it is gone. Where there is no
/proc (not Linux), folders are found by the process's number alone and processes are not.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

FOLDER, MARK = "HUMAR_BENCH_FOLDER", "HUMAR_BENCH_CHILD"  # in a child's environment, and so in that of all it starts
PREFIX = "humar-bench-"
PASSES = 10  # over the processes, while any is found: one may start another before it is stopped
_PROC = Path("/proc")
_OWNER = re.compile(r"(\d+)-(\d+)-(\d+)")


def owner() -> str:
    """This process, as no other is called: its number, when it started (clock ticks since boot), and in which namespace of numbers."""
    return f"{os.getpid()}-{_started(os.getpid()) or 0}-{_namespace()}"


def own_folder() -> str:
    """A new folder for one child. Raises OSError."""
    return tempfile.mkdtemp(prefix=f"{PREFIX}{owner()}-")


def sweep() -> None:
    """Remove the folders, and end the processes, of runs that are gone; those of runs in another container are left alone."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(tempfile.gettempdir()):
            found = re.fullmatch(rf"{PREFIX}({_OWNER.pattern})-\w+", entry.name)
            with contextlib.suppress(OSError):
                if found and _is_gone(found[1]) and entry.is_dir(follow_symlinks=False) and _is_ours(entry.path):
                    shutil.rmtree(entry.path, ignore_errors=True)
    _end(lambda mark: (found := _OWNER.match(mark)) is not None and _is_gone(found[0]))


def end_marked(mark: str) -> None:
    """End every process that a child with this mark started and left behind, whatever session it is in."""
    _end(lambda each: each == mark)


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    parents = {each: int(fields[1]) for each in _processes() if (fields := _stat(each))}
    found: list[int] = []
    level = {pid}
    while level := {each for each, parent in parents.items() if parent in level}:
        found.extend(level)
    return found


def end_all(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def adopt_orphans() -> None:
    """From now on what this process's children start stays below it when they end (Linux: PR_SET_CHILD_SUBREAPER)."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # linux/prctl.h


def _end(is_meant: Callable[[str], bool]) -> None:
    for _ in range(PASSES):
        found = [pid for pid in _processes() if pid != os.getpid() and (mark := _mark_of(pid)) and is_meant(mark)]
        if not found:
            return
        end_all(found)


def _processes() -> Iterator[int]:
    with contextlib.suppress(OSError):
        for name in os.listdir(_PROC):
            if name.isdigit():
                yield int(name)


def _mark_of(pid: int) -> str:
    """The mark in a process's environment; empty where it has none, is somebody else's or has ended."""
    with contextlib.suppress(OSError):
        for each in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            if each.startswith(MARK.encode() + b"="):
                return each.partition(b"=")[2].decode("utf-8", "replace")
    return ""


def _stat(pid: int) -> list[str]:
    """State, parent, ... of a process (proc(5), from the third field on); nothing once it has ended."""
    with contextlib.suppress(OSError):
        return (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return []


def _started(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[19]) if len(fields) > 19 and fields[0] != "Z" else None


@functools.cache
def _namespace() -> int:
    with contextlib.suppress(OSError):
        return os.stat(_PROC / "self" / "ns" / "pid").st_ino
    return 0


def _is_gone(named: str) -> bool:
    pid, started, namespace = (int(each) for each in _OWNER.fullmatch(named).groups())
    if namespace != _namespace():
        return False
    if started:
        return _started(pid) != started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _is_ours(path: str) -> bool:
    return not hasattr(os, "getuid") or os.stat(path, follow_symlinks=False).st_uid == os.getuid()
