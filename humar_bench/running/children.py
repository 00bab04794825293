"""Child processes with an answer: started, listened to without polling, stopped when they take too long, and explained when they die."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from humar_bench.errors import MeasurementError
from humar_bench.reading import open_regular, read_bytes
from humar_bench.running import leftovers
from humar_bench.running.messages import MOST_EVENT, MOST_HEARD, MOST_REPLY, MOST_RESULT, MOST_RESULTS, MOST_SAID, read_event, read_reply
from humar_bench.subjects.sources import child_command, child_environment

LOOK_EVERY_S = 1.0  # the pipe says at once that a child ended, unless a grandchild still holds its other end
TAIL_BYTES = 8192
_OUT_OF_MEMORY = ("bad_alloc", "out of memory", "cannot allocate memory", "can't allocate memory", "memoryerror")
_number = itertools.count()
Tag = TypeVar("Tag")


@dataclass(frozen=True)
class Outcome:
    """How a child ended: its reply, or None and why. `architecture` is the one it last said it was working on, which proves nothing where
    it had several: any of them can say so."""

    reply: dict[str, Any] | None
    kind: str = ""
    reason: str = ""
    architecture: str = ""


class Child:
    """One process of `humar_bench.running.worker`, with a pipe on which it says what it does. Call `start`, then `listen` when `events` is
    readable or time has passed, until it returns an Outcome; `kill` at any time. `check` raises ValueError for a reply that is none of its
    kind; a child that sends such a one, or an event that is none, has failed. With `check_event`, which raises alike, events may carry
    results."""

    def __init__(
        self, request: dict[str, Any], *, timeout_s: float, hear: Callable[[dict[str, Any]], None], names: tuple[str, ...] = (),
        check: Callable[[dict[str, Any]], None] = lambda reply: None,
        check_event: Callable[[dict[str, Any]], None] | None = None,
        command: tuple[str, ...] = child_command("humar_bench.running.worker"),
    ) -> None:
        self.request, self.timeout_s, self.hear, self.names, self.command = request, timeout_s, hear, names, command
        self.check, self.check_event, self.events = check, check_event, -1
        self.most_event, self.most_said = (MOST_EVENT, MOST_SAID) if check_event is None else (MOST_RESULT, MOST_RESULTS)
        self.architecture = names[0] if len(names) == 1 else ""
        self._heard, self._said, self._fault = b"", 0, ""
        self._process: subprocess.Popen | None = None
        self._folder = self._mark = ""
        self._cpu_before_s = 0.0

    def start(self) -> None:
        self._cpu_before_s = _children_cpu_s()
        try:
            if (number := next(_number)) == 0:
                leftovers.sweep()
            self._folder, self._mark = leftovers.own_folder(), f"{leftovers.owner()}-{number}"
            folder, marked = Path(self._folder), {leftovers.FOLDER: self._folder, leftovers.MARK: self._mark}
            reading, writing = os.pipe()
            self.events = reading
            try:
                request = {**self.request, "reply": str(folder / "reply.json"), "events": writing, "parent": os.getpid()}
                (folder / "request.json").write_text(json.dumps(request))
                with open(folder / "request.json", "rb") as asked, open(folder / "stderr", "wb") as said:
                    self._process = subprocess.Popen(
                        self.command, stdin=asked, stdout=subprocess.DEVNULL, stderr=said, pass_fds=(writing,),
                        start_new_session=True, env={**child_environment(), **marked},
                    )
            finally:
                os.close(writing)
        except OSError as error:
            self.kill()
            raise MeasurementError(f"no child process can be started: {error.strerror or error}.") from None
        self.renew()

    def listen(self) -> Outcome | None:
        """Pass on what the child said since the last time; the Outcome once it has ended or its time is over."""
        ended = self._hear()
        if self._fault:
            return self._finish(Outcome(None, "error", f"{self._who()} was stopped: {self._fault}.", self.architecture))
        left_s = max(0.0, self.ends_s - time.monotonic())
        if not ended and left_s and self._process.poll() is None:
            return None
        try:
            code = self._process.wait(timeout=left_s)  # it has ended, or is about to, or has closed its pipe and goes on
        except subprocess.TimeoutExpired:
            self.kill_process()
            reason = f"{self._who()} took longer than {self.timeout_s:g} s and was stopped."
            return self._finish(Outcome(None, "timeout", reason, self.architecture))
        while not self._fault and not self._hear() and self._is_readable():
            pass  # what it said between the first look and its end
        if self._fault:
            return self._finish(Outcome(None, "error", f"{self._who()} is not believed: {self._fault}.", self.architecture))
        return self._finish(self._explained(code))

    def _hear(self) -> bool:
        """Read and pass on whatever is in the pipe, without waiting; True when its other end is closed."""
        ended, look = False, 0
        while not ended and look < MOST_HEARD and self._is_readable():
            piece = os.read(self.events, 65536)
            ended, look = not piece, look + len(piece)
            self._heard += piece
        self._said += look
        *lines, self._heard = self._heard.split(b"\n")
        if self._said > self.most_said or len(self._heard) > self.most_event:
            self._fault = f"its events take more than {self.most_said if self._said > self.most_said else self.most_event:,} bytes"
            return True
        for line in lines:
            try:
                event = read_event(line, self.names, results=self.check_event is not None)
                if self.check_event is not None:
                    self.check_event(event)
            except ValueError as error:
                self._fault = f"it sent what is no event ({error})"
                return True
            self.architecture = event.get("architecture") or (self.names[0] if len(self.names) == 1 else "")
            self.hear(event)
        return ended

    def renew(self) -> None:
        """A piece of its work is done: it has `timeout_s` for the next."""
        self.ends_s = time.monotonic() + self.timeout_s

    def _is_readable(self) -> bool:
        return bool(select.select([self.events], [], [], 0)[0])

    def kill(self) -> None:
        """Stop the child and everything it started, and clean up. Safe at any time and more than once."""
        self.kill_process()
        self._finish(None)

    def kill_process(self) -> None:
        if self._process is not None and self._process.returncode is None:
            started = leftovers.descendants(self._process.pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            leftovers.end_all(started)
            self._process.wait()

    def _finish(self, outcome: Outcome | None) -> Outcome | None:
        if self._process is not None:
            self.kill_process()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)  # what the child started and left behind
            if self._folder:
                leftovers.end_marked(self._mark)
        if self.events >= 0:
            os.close(self.events)
            self.events = -1
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""
        return outcome

    def _who(self) -> str:
        return " and ".join(self.names) or "the child process"

    def _explained(self, code: int) -> Outcome:
        """The reply, or from exit code and last words why there is none."""
        folder = Path(self._folder)
        try:
            reply = read_reply(read_bytes(folder / "reply.json", MOST_REPLY))
            self.check(reply)
            return Outcome(reply, architecture=self.architecture)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            return Outcome(None, "error", f"{self._who()} sent back what is no result: {why}.", self.architecture)
        words = _last_words(folder / "stderr")
        said = f" ({words})" if words else ""
        if any(sign in words.lower() for sign in _OUT_OF_MEMORY):
            return Outcome(None, "out of memory", f"{self._who()} ran out of memory{said}; try a smaller batch.", self.architecture)
        if limit := self._used_up(code):
            return Outcome(None, "crash", f"{self._who()} used up its CPU time ({limit}){said}; allow it more.", self.architecture)
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            hint = ", as a system does that is out of memory" if name == "SIGKILL" else ""
            return Outcome(None, "crash", f"{self._who()} crashed its process with {name}{hint}{said}.", self.architecture)
        return Outcome(None, "crash", f"{self._who()} ended its process with exit code {code} and no result{said}.", self.architecture)

    def _used_up(self, code: int) -> str:
        """The limit on CPU time that ended the process, in words; empty for any other end. At the soft limit the kernel sends SIGXCPU, at
        the hard one SIGKILL, as it does when memory is out."""
        soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
        used_s = _children_cpu_s() - self._cpu_before_s
        if code == -signal.SIGXCPU:
            return "ulimit -t" if soft == resource.RLIM_INFINITY else f"ulimit -t is {soft} s"
        killed = code == -signal.SIGKILL and hard != resource.RLIM_INFINITY and used_s > hard - 1
        return f"ulimit -t is {hard} s" if killed else ""


def _children_cpu_s() -> float:
    """CPU time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_children(children: Iterable[tuple[Tag, Child]], *, at_once: int) -> Iterator[tuple[Tag, Outcome]]:
    """Run children, at most `at_once` side by side, and yield each with its outcome as it ends. Sleeps in between.

    When the caller stops early, or Ctrl-C comes, those still running are killed.
    """
    waiting = iter(children)
    running: list[tuple[Tag, Child]] = []
    try:
        while True:
            while len(running) < at_once and (following := next(waiting, None)) is not None:
                running.append(following)
                following[1].start()
            if not running:
                return
            until_s = min(child.ends_s for _, child in running) - time.monotonic()
            select.select([child.events for _, child in running], [], [], max(0.0, min(LOOK_EVERY_S, until_s)))
            for tag, child in list(running):
                outcome = child.listen()
                if outcome is not None:
                    running.remove((tag, child))
                    yield tag, outcome
    finally:
        for _, child in running:
            child.kill()


def _last_words(path: Path) -> str:
    """The last line a child wrote to its standard error, as part of a sentence."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("USDT:")]
    return lines[-1][:200].rstrip(".") if lines else ""
