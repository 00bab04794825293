"""The conditions a number is stored with are true, plain, and say nothing about who measured."""

from __future__ import annotations

import getpass
import json
import os
import platform
import socket
import subprocess
from pathlib import Path

import torch

from humar_bench.devices import environment as module
from humar_bench.devices.environment import (
    cpu_model,
    environment,
    load_1min,
    package_versions,
    source_state,
    total_memory_bytes,
    usable_cores,
)
from humar_bench.records.record import plain


def test_the_environment_names_versions_machine_and_threads():
    facts = environment()
    assert facts["torch"] == torch.__version__ and facts["python"] == platform.python_version()
    assert facts["packages"]["torch"] == torch.__version__.split("+")[0] or facts["packages"]["torch"] == torch.__version__
    assert facts["threads"] == 1 == torch.get_num_threads()  # the suite's own setting
    assert facts["device"] == "cpu" and facts["device_label"] == facts["cpu"] == cpu_model()
    assert facts["cores"] == usable_cores() >= 1 and facts["driver"] is None
    assert plain(facts) == facts


def test_the_environment_holds_no_host_name_no_user_name_and_no_path():
    text = json.dumps(environment())
    values = [value for value in json.loads(text).values() if isinstance(value, str)]
    assert socket.gethostname() not in values and getpass.getuser() not in values
    assert str(Path.home()) not in text and str(Path(module.__file__).parent) not in text and "/tmp" not in text


def test_a_device_gives_its_name_its_label_and_its_driver():
    class Gpu:
        kind, name, label = "cuda", "cuda:1", "A GPU"

        def telemetry(self):
            return {"driver": "555.1", "sm_clock_mhz": 1980}

    facts = environment(Gpu())
    assert (facts["device"], facts["device_label"], facts["driver"]) == ("cuda:1", "A GPU", "555.1")
    Gpu.telemetry = lambda self: None
    assert environment(Gpu())["driver"] is None


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(module, "PACKAGES", ("torch", "no-such-package-at-all"))
    versions = package_versions()
    assert versions["torch"] and versions["no-such-package-at-all"] is None


def test_load_and_memory_are_numbers_or_missing(monkeypatch):
    assert load_1min() >= 0 and total_memory_bytes() > 2**20
    monkeypatch.delattr(os, "getloadavg")
    monkeypatch.delattr(os, "sysconf")
    assert load_1min() is None and total_memory_bytes() is None


def test_the_commit_is_dirty_when_a_source_changed_and_not_when_results_did(tmp_path):
    def git(*command):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x", *command], check=True, capture_output=True)

    assert source_state(tmp_path) == (None, None)
    for folder in ("humar_bench", "results"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_text("1")
    git("init", "-q")
    assert source_state(tmp_path) == (None, None)  # no commit yet
    git("add", ".")
    git("commit", "-q", "-m", "x")
    commit, dirty = source_state(tmp_path)
    assert len(commit) == 40 and dirty is False
    (tmp_path / "results" / "a").write_text("2")
    assert source_state(tmp_path) == (commit, False)
    (tmp_path / "humar_bench" / "a").write_text("2")
    assert source_state(tmp_path) == (commit, True)
    (tmp_path / "humar_bench" / "a").write_text("1")
    (tmp_path / "humar_bench" / "b").write_text("new")
    assert source_state(tmp_path) == (commit, True)


def test_without_git_the_commit_is_missing(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert source_state(tmp_path) == (None, None)


# Other work ------------------------------------------------------------------------------------------------------------------------


def a_stat(path: Path, *cores: tuple[int, ...]) -> Path:
    path.write_text("cpu  9 9 9 9 9 9 9 9 9 9\n" + "".join(f"cpu{at} {' '.join(map(str, ticks))} 7 7\n" for at, ticks in enumerate(cores)))
    return path


def test_busy_time_is_of_the_cores_this_process_may_use_and_without_idling(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2}, raising=False)
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    stat = a_stat(tmp_path / "stat", (1000,) * 8, (1, 2, 4, 5000, 6000, 8, 16, 32), (100, 0, 0, 9, 9, 0, 0, 0))
    assert module.cores_busy_s(stat) == (1 + 2 + 4 + 8 + 16 + 32 + 100) / 100
    assert module.cores_busy_s(tmp_path / "absent") is None
    assert module.cores_busy_s(a_stat(tmp_path / "other", (1,) * 8)) is None  # none of its cores is listed
    (tmp_path / "odd").write_text("cpu1 a b c d e f g h\n")
    assert module.cores_busy_s(tmp_path / "odd") is None


def test_others_have_what_the_cores_did_and_this_process_did_not(monkeypatch):
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    times = iter([(10.0, 1.0, 100.0), (16.0, 3.0, 105.0), (None, 3.0, 105.0), (10.5, 4.0, 105.0)])
    monkeypatch.setattr(module.OthersWatch, "_now", staticmethod(lambda: next(times)))
    watch = module.OthersWatch()
    assert watch.share() == (6.0 - 2.0) / (5.0 * 2)
    assert watch.share() is None
    assert watch.share() == 0.0  # the clocks tick in steps
