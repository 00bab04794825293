"""Files of other people, read with bounds: regular files only, no more than so many bytes, JSON no deeper and no longer than anything
written here. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from collections.abc import Iterator
from typing import Any

MOST_BYTES = 256 * 2**20  # of a file of records, a certificate, a table
MOST_LINE = 4 * 2**20  # of one record; the longest one written is below 1 MiB
MOST_LINES = 1_000_000
MOST_DEPTH = 100  # of objects and lists inside each other
MOST_DIGITS = 19  # of a whole number: more than any 64-bit integer has
_KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"), (stat.S_ISLNK, "a link"),
)


class NotRegular(OSError):
    """A path that names no regular file; `strerror` says what it is."""


def what_else(mode: int) -> str:
    """'a pipe', 'a folder', ... for the mode of what is no regular file, by `lstat` also 'a link'; empty for a regular file."""
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "" if stat.S_ISREG(mode) else "no regular file")


def is_null(path: str | os.PathLike) -> bool:
    """Whether a path is the null device, by whatever name."""
    with contextlib.suppress(OSError):
        return os.path.samefile(path, os.devnull)
    return False


def open_regular(path: str | os.PathLike) -> Any:
    """A regular file, opened for reading bytes. Never waits: a pipe is not opened but refused. Raises OSError, NotRegular among them."""
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    try:
        if kind := what_else(os.fstat(opened).st_mode):
            raise NotRegular(0, f"it is {kind} and only regular files are read", os.fspath(path))
        return open(opened, "rb")
    except BaseException:
        os.close(opened)
        raise


def read_bytes(path: str | os.PathLike, most: int = MOST_BYTES) -> bytes:
    """All of a regular file of at most so many bytes. Raises OSError, for one that is too large too (`strerror` names the bound)."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise too_large(path, most)
        content = file.read(most + 1)  # it may grow, or say nothing of its size
    if len(content) > most:
        raise too_large(path, most)
    return content


def read_lines(path: str | os.PathLike, most: int = MOST_BYTES, most_line: int = MOST_LINE) -> Iterator[bytes]:
    """The lines of a regular file, each with its end; the last one may have none. A line that is too long is given cut, longer than
    `most_line` and with its end. Raises OSError as `read_bytes`, and for more than `MOST_LINES` lines."""
    with open_regular(path) as file:
        left = most
        for _ in range(MOST_LINES):
            line = file.readline(most_line + 2)
            cut = len(line) > most_line and not line.endswith(b"\n")
            left -= len(line)
            end = line
            while cut and left >= 0 and end and not end.endswith(b"\n"):
                end = file.readline(2**20)
                left -= len(end)
            if left < 0:
                raise too_large(path, most)
            if not line:
                return
            yield line + (b"\n" if cut and end.endswith(b"\n") else b"")
        if file.read(1):
            raise OSError(0, f"it has more than {MOST_LINES:,} lines, the most that are read", os.fspath(path))


def too_large(path: str | os.PathLike, most: int) -> OSError:
    return OSError(0, f"it is larger than {most / 2**20:,.0f} MiB, the most that is read", os.fspath(path))


def parse_json(text: str | bytes, most: int = MOST_BYTES, *, finite: bool = True) -> Any:
    """JSON of somebody else. Raises ValueError with the reason, as part of a sentence, for what is none, and for what could not be written
    again: more than `MOST_DEPTH` levels, NaN, numbers beyond 64 bits, a key that stands twice in one object. With `finite` false NaN,
    infinities and numbers that become such are read."""
    if len(text) > most:
        raise ValueError(f"it is longer than {most / 2**20:,.0f} MiB, the most that is read")
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        text = text.removeprefix(BYTE_ORDER_MARK)
        number, constant = (_number, _refuse_constant) if finite else (None, None)
        value = json.loads(text, parse_constant=constant, parse_int=_whole, parse_float=number, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    check_json(value)
    return value


BYTE_ORDER_MARK = "\ufeff"  # some editors begin a UTF-8 file with it; it is no part of the text
_TOO_DEEP = f"it is nested more than {MOST_DEPTH} levels deep"


def check_json(value: Any) -> None:
    """Raises ValueError for a value of more than `MOST_DEPTH` levels."""
    level, depth = [value] if isinstance(value, (dict, list)) else [], 1
    while level:
        if depth > MOST_DEPTH:
            raise ValueError(_TOO_DEEP)
        inside = (inner for each in level for inner in (each.values() if isinstance(each, dict) else each))
        level = [inner for inner in inside if isinstance(inner, (dict, list))]
        depth += 1


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, whose every key has to mean one thing."""
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"it gives the key {twice[:60]!r} twice")
    return made


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no number")


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"it holds a whole number of {len(text.lstrip('-'))} digits, more than {MOST_DIGITS}")
    return int(text)


def _number(text: str) -> float:
    value = float(text) if len(text) <= 400 else math.inf
    if not math.isfinite(value):
        raise ValueError(f"it holds the number {text[:20]}{'...' if len(text) > 20 else ''}, which no double can hold")
    return value
