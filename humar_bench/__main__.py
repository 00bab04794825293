"""`python -m humar_bench`, and the command `humar-bench`.

Loading the command line takes a moment, in which Ctrl-C would be a traceback through whatever is being loaded.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130
_STOPPED = b"humar-bench: stopped by Ctrl-C before anything was measured.\n"


def main() -> int:
    """The console entry. Returns the exit code."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else somebody else decided, such as a shell for a job in the background
        signal.signal(signal.SIGINT, _stop)
    from humar_bench.cli import main as run

    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, before)
    try:
        code = run()
    except KeyboardInterrupt:
        _stop()
    if code == INTERRUPTED:  # a second one would find Python tearing itself down
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout.flush()
        os._exit(code)
    return code


def _stop(number: int = signal.SIGINT, frame: FrameType | None = None) -> None:
    """Say so and end at once: what is being loaded may catch an exception."""
    try:
        os.write(2, _STOPPED)
    finally:
        os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
