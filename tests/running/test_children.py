"""A child process that ends in any way is explained, and none outlives its parent's interest in it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from humar_bench.errors import MeasurementError
from humar_bench.running import leftovers
from humar_bench.running.children import Child, run_children

FAKE = (sys.executable, str(Path(__file__).parents[1] / "data" / "fake_worker.py"))


def a_child(*builders: str, timeout_s: float = 20.0, heard: list | None = None, command=FAKE) -> Child:
    architectures = [{"name": each, "spec": f"x:{each}", "foreign": True} for each in builders]
    request = {"architectures": architectures, "process": 0, "plan": {}}
    return Child(request, timeout_s=timeout_s, hear=(heard if heard is not None else []).append, names=builders, command=command)


def outcome_of(child: Child):
    [(tag, outcome)] = run_children([("tag", child)], at_once=1)
    assert tag == "tag"
    return outcome


def children_alive() -> int:
    said = subprocess.run(["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False).stdout
    return sum("fake_worker" in line for line in said.splitlines())


def test_a_reply_comes_back_and_what_the_child_said_was_heard(capfd):
    heard = []
    outcome = outcome_of(a_child("build", "raises", heard=heard))
    assert outcome.reply["results"]["build"]["built"] == {"does": "build"} and outcome.kind == ""
    assert [each["architecture"] for each in heard] == ["build", "raises"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("builder", "kind", "reason"),
    [
        ("crashes", "crash", "build and crashes crashed its process with SIGSEGV (about to crash)."),
        ("leaves", "crash", "build and leaves ended its process with exit code 1 and no result (left on purpose)."),
        ("hungry", "out of memory",
         "build and hungry ran out of memory (terminate called after throwing an instance of 'std::bad_alloc'); try"),
        ("four_outputs", "crash", "build and four_outputs crashed its process with SIGKILL, as a system does that is out of memory."),
    ],
)
def test_a_child_that_dies_is_explained_by_its_signal_its_code_and_its_last_words(builder, kind, reason, capfd):
    outcome = outcome_of(a_child("build", builder))
    assert outcome.reply is None and outcome.kind == kind and outcome.reason.startswith(reason)
    assert outcome.architecture == ("" if builder == "four_outputs" else builder)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("soft", "hard"), [(1, 5), (1, 1)])
def test_a_child_that_used_up_its_cpu_time_is_not_said_to_be_out_of_memory(soft, hard):
    """At the soft limit the kernel sends SIGXCPU, where that is the hard one too SIGKILL."""
    code = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_CPU, ({soft}, {hard}))\n"
        "from tests.running.test_children import a_child, outcome_of\n"
        "outcome = outcome_of(a_child('spins'))\n"
        "print(outcome.kind, '|', outcome.reason)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == f"crash | spins used up its CPU time (ulimit -t is {soft} s); allow it more.\n", done.stderr


def test_a_child_that_takes_too_long_is_stopped_with_everything_it_started():
    child = a_child("hangs", timeout_s=1.0)
    outcome = outcome_of(child)
    assert (outcome.kind, outcome.reason, outcome.architecture) == ("timeout", "hangs took longer than 1 s and was stopped.", "hangs")
    for _ in range(100):  # whoever inherits the grandchild may take a moment to notice its end
        every = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout.splitlines()
        left = [line for line in every if line.split()[0] == str(child._process.pid) and not line.split()[1].startswith("Z")]
        if not left:
            break
        time.sleep(0.05)
    assert not left


def test_a_grandchild_that_keeps_the_pipe_open_does_not_keep_the_parent_waiting(monkeypatch):
    held, finish = [], Child._finish

    def watched(child, outcome):
        held.append(not select.select([child.events], [], [], 0)[0])  # nothing to read and no end of it: somebody still holds it
        return finish(child, outcome)

    monkeypatch.setattr(Child, "_finish", watched)
    outcome = outcome_of(a_child("chatty", timeout_s=90.0))  # the grandchild lives 30 s
    assert outcome.reply["results"]["chatty"]["status"] == "ok" and held == [True]


def test_children_run_side_by_side_up_to_a_limit_and_are_started_lazily():
    started = []

    def children():
        for number in range(5):
            started.append(number)
            yield number, a_child("build")

    most, seen = 0, []
    for tag, outcome in run_children(children(), at_once=2):
        seen.append(tag)
        most = max(most, len(started) - len(seen))
        assert outcome.reply is not None
    assert sorted(seen) == [0, 1, 2, 3, 4] and most <= 1 and children_alive() == 0


def test_an_interrupt_kills_the_children_that_run():
    running = []

    def interrupt(event):
        raise KeyboardInterrupt

    child = a_child("hangs")
    child.hear = interrupt
    with pytest.raises(KeyboardInterrupt):
        for each in run_children([(0, child)], at_once=1):
            running.append(each)
    assert not running and child._process.returncode == -signal.SIGKILL and child.events == -1


def test_the_parent_sleeps_while_a_child_works():
    before = time.process_time()
    outcome_of(a_child("hangs", timeout_s=3.0))
    assert time.process_time() - before < 1.0  # a loop that polls would take all three seconds, starting a process takes a little


def test_a_child_that_cannot_be_started_is_one_sentence():
    with pytest.raises(MeasurementError, match="no child process can be started: No such file or directory"):
        outcome_of(a_child("build", command=("/no/such/python",)))


def test_killing_twice_or_before_the_start_does_no_harm():
    child = a_child("build")
    child.kill()
    child.start()
    child.kill()
    child.kill()
    assert child.events == -1


def test_what_a_child_said_just_before_its_end_is_heard():
    heard = []
    child = a_child("build", "crashes", heard=heard)
    child.start()
    process, look = child._process, child._process.poll
    process.poll = lambda: process.wait() and look()  # it ends between the first look at the pipe and the look at the process
    outcome = child.listen()
    assert [each["architecture"] for each in heard] == ["build", "crashes"] and outcome.architecture == "crashes"


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found through /proc")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone_within(pid: int, seconds: float) -> bool:
    until_s = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < until_s:
        time.sleep(0.05)
    return not is_alive(pid)


@needs_proc
@pytest.mark.parametrize("ends", [[], ["leaves"], ["crashes"], ["hangs"]])
def test_a_grandchild_in_a_session_of_its_own_does_not_outlive_the_child(tmp_path, monkeypatch, ends):
    monkeypatch.setenv("FAKE_ESCAPED", str(tmp_path / "escaped"))
    outcome_of(a_child("escapes", *ends, timeout_s=5.0 if ends == ["hangs"] else 60.0))
    assert gone_within(int((tmp_path / "escaped").read_text()), 5)


OWNER = """
import os, sys, time
from humar_bench.running import leftovers
os.environ[leftovers.MARK] = f"{leftovers.owner()}-0"
import subprocess
code = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
print(leftovers.own_folder(), child.stdout.readline().strip(), flush=True)
time.sleep(60)
"""


@needs_proc
def test_the_next_run_removes_what_a_killed_one_left_and_nothing_of_those_that_live(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    root = str(Path(__file__).resolve().parents[2])
    owners = [subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root})
              for _ in range(2)]
    (killed, killed_pid), (living, living_pid) = (each.stdout.readline().split() for each in owners)
    owners[0].kill()
    owners[0].wait()
    others = [tmp_path / "humar-bench-of-the-user", tmp_path / f"humar-bench-{owners[0].pid}-1-999-abc", tmp_path / "notes"]
    for other in others:
        other.mkdir()
    (tmp_path / "target").mkdir()
    Path(f"{killed}x").symlink_to(tmp_path / "target")
    try:
        leftovers.sweep()
        assert not Path(killed).exists() and gone_within(int(killed_pid), 5)
        assert Path(living).exists() and is_alive(int(living_pid))
        assert all(other.exists() for other in others) and (tmp_path / "target").exists()
    finally:
        for each in (owners[1].pid, int(living_pid)):
            os.kill(each, signal.SIGKILL)
        for each in owners:
            each.wait()
            each.stdout.close()
