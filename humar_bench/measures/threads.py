"""Threads beside the one that runs a forward: those it starts are watched as it is, those that were there before are seen by the time they
use."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import torch


@contextlib.contextmanager
def starting(mode: AbstractContextManager) -> Iterator[None]:
    """Threads that are started inside run in inference mode and under `mode`."""
    def under_mode(thread: threading.Thread) -> None:
        run = thread.run

        def watched() -> None:
            with torch.inference_mode(), mode:
                run()

        thread.run = watched
        start(thread)

    start, threading.Thread.start = threading.Thread.start, under_mode
    try:
        yield
    finally:
        threading.Thread.start = start


class OtherThreads:
    """The threads that are there now, but for this one: a server's, a progress bar's, a pool's that a model computes in."""

    def __init__(self) -> None:
        self.before = {thread: _used(thread) for thread in threading.enumerate() if thread is not threading.current_thread()}

    def computed(self) -> bool:
        """Whether one of them has used a processor since, or may have: where the system does not say, or the thread has ended."""
        return any(used is None or _used(thread) != used for thread, used in self.before.items())


def _used(thread: threading.Thread) -> int | None:
    """Nanoseconds that a thread has used a processor; None where the system does not say (it is in Linux's schedstat)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0])
    return None
