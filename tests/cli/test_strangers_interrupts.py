"""Ctrl-C while the command line is being loaded, and twice: one sentence, 130."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

# Says when Python itself has started, which nobody can interrupt with a sentence, then is `python -m humar_bench`.
PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from humar_bench import __main__ as entry\n"
    "print('here', flush=True)\n"
    "sys.argv = ['humar-bench', *sys.argv[1:]]\n"
    "sys.exit(entry.main())\n"
)


@pytest.mark.parametrize(("wait_s", "times"), [(0.02, 1), (0.1, 1), (0.3, 2), (0.1, 3)])
def test_strangers_ctrl_c_while_loading_is_one_sentence(wait_s, times):
    command = [sys.executable, "-c", PROGRAM, "params", "--workload", "tiny"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert program.stdout.readline() == "here\n"
    time.sleep(wait_s)
    for _ in range(times):
        program.send_signal(signal.SIGINT)
        time.sleep(0.01)
    said, errors = program.communicate(timeout=60)
    assert program.returncode == 130 and said == ""
    assert errors.startswith("humar-bench: stopped by Ctrl-C") and errors.count("\n") == 1


def test_strangers_a_job_that_ignores_ctrl_c_still_does():
    program = PROGRAM.replace("signal.default_int_handler", "signal.SIG_IGN", 1)
    running = subprocess.Popen([sys.executable, "-c", program, "--version"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout.readline() == "here\n"
    running.send_signal(signal.SIGINT)
    said, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (0, "") and said.startswith("humar-bench ")
