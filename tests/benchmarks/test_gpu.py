"""`make gpu`: the plan, the deadline on a fake clock, steps that hang, fail and die, command lines the tool understands, the layout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import DONE, FAILED, SKIPPED, STEPS, STOPPED, Ended, Step, run_command, run_plan
from humar_bench.cli import main as cli
from humar_bench.cli.app import app
from humar_bench.saved.verify import verify
from tests.golden.records import made_up_run

ROOT = Path(__file__).parents[2]


class Fake:
    """A clock, and steps that take as long as they are told: name -> seconds, an Ended, or an exception."""

    def __init__(self, **steps):
        self.now_s, self.steps, self.ran = 1000.0, steps, []

    def clock(self):
        return self.now_s

    def run(self, typed, log, limit_s):
        name = log.stem
        self.ran.append((name, list(typed), limit_s))
        seconds, ended = self.steps.get(name, (1.0, Ended(0)))
        if isinstance(ended, type):
            raise ended
        self.now_s += min(seconds, limit_s)
        return Ended(-9, stopped=True) if seconds > limit_s else ended

    def plan(self, steps, folder, deadline_s=100.0):
        return run_plan(steps, folder, deadline_s, {"gpu": "Fake"}, clock=self.clock, run=self.run, say=lambda _: None)


def step(name: str, limit_s: float = 25.0, least_s: float = 5.0, **more) -> Step:
    return Step(name, f"shows {name}", limit_s, least_s, ("humar-bench", "fps", "--budget", "{budget}", "--csv", "{out}/fps.csv"), **more)


FOUR = tuple(step(name, budget_s=8.0) for name in "abcd")


# The plan -------------------------------------------------------------------------------------------------------------------------


def test_the_limits_of_all_steps_fit_into_the_deadline_which_is_below_ten_minutes():
    assert sum(each.limit_s for each in STEPS) <= gpu.DEADLINE_S < 600
    assert all(0 < each.least_s <= each.limit_s and each.budget_s < each.limit_s for each in STEPS)
    assert len({each.name for each in STEPS}) == len(STEPS) and all(gpu.folder_name(each.name) == each.name for each in STEPS)


def test_speed_comes_first_and_the_tests_last():
    names = [each.name for each in STEPS]
    assert names[:2] == ["report-speed-test", "memory-exact"] and names[-2:] == ["calibrate", "cuda-tests"]
    assert names.index("report-uniphd") < names.index("backends-compiled")


def test_every_workload_backend_number_type_and_reference_that_was_asked_for_is_in_the_plan():
    text = "\n".join(" ".join(each.command) for each in STEPS)
    wanted = ("report --workload speed-test --batch 2", "report --workload uniphd --batch 2", "--backend eager", "--backend compile ",
              "--backend cuda-graph", "--backend compile-graph", "--dtype float32", "--dtype tf32", "--dtype bfloat16",
              "fps --workload speed-test --batch 2 --arch original-fused --arch efficient --reference original-fused",
              "fps --workload uniphd --batch 2 --arch original-fused --arch efficient --reference original-fused",
              "calibrate --device cuda", "roofline", "pytest -m cuda", "test_cuda_memory.py")
    assert [each for each in wanted if each not in text] == []


# The deadline ---------------------------------------------------------------------------------------------------------------------


def test_time_that_a_step_leaves_goes_to_the_ones_behind_it(tmp_path):
    fake = Fake(a=(5.0, Ended(0)), b=(40.0, Ended(0)))
    summary = fake.plan(FOUR, tmp_path)
    assert [round(limit_s) for *_, limit_s in fake.ran] == [25, 45, 30, 54] and {each.status for each in summary.results} == {DONE}


def test_a_step_that_hangs_is_stopped_at_its_share_and_costs_the_others_nothing(tmp_path):
    fake = Fake(b=(1e9, Ended(0)))
    summary = fake.plan(FOUR, tmp_path)
    assert [each.status for each in summary.results] == [DONE, STOPPED, DONE, DONE]
    assert summary.results[1].seconds == 49.0 and "its 49 s were over" in summary.results[1].note  # a left it 24 s
    assert fake.now_s - 1000 == 1 + 49 + 1 + 1 and fake.ran[2][2] == 25


def test_steps_that_fail_or_die_are_said_and_the_next_ones_run(tmp_path):
    summary = Fake(a=(1.0, Ended(1)), b=(1.0, Ended(-11)), c=(1.0, Ended(5))).plan(FOUR, tmp_path)
    assert [each.status for each in summary.results] == [FAILED, FAILED, FAILED, DONE]
    notes = [each.note for each in summary.results]
    assert notes[:3] == ["exit code 1, a measurement failed; see logs/a.txt", "ended by SIGSEGV",
                         "exit code 5, a measurement is invalid; see logs/c.txt"]


def test_under_a_shorter_deadline_all_are_shortened_and_what_has_too_little_is_skipped_with_a_note(tmp_path):
    steps = (step("a", budget_s=8.0), step("b", least_s=20.0), step("c", budget_s=8.0))
    fake = Fake(**{name: (1e9, Ended(0)) for name in "abc"})
    summary = fake.plan(steps, tmp_path, deadline_s=37.5)
    assert [each.status for each in summary.results] == [STOPPED, SKIPPED, STOPPED] and fake.now_s - 1000 == pytest.approx(37.5)
    assert summary.results[1].note == "12 s were left and it needs 20 s" and not (tmp_path / "b").exists()
    assert fake.ran[0][1][3] == "4" and fake.ran[1][1][3] == "8"  # half its time, half its budget; then b's time too


def test_a_shortened_step_that_ends_says_that_it_was_shortened(tmp_path):
    summary = Fake().plan(FOUR[:1], tmp_path, deadline_s=10.0)
    assert summary.results[0].status == DONE and summary.results[0].note == "shortened to 10 of 25 s"


def test_nothing_runs_past_the_deadline_whatever_hangs(tmp_path):
    fake = Fake(**{name: (1e9, Ended(0)) for name in "abcd"})
    fake.plan(FOUR, tmp_path)
    assert fake.now_s - 1000 == pytest.approx(100)


# What is on disk ------------------------------------------------------------------------------------------------------------------


def test_the_summary_says_what_ran_with_its_command_and_is_whole_after_every_step(tmp_path):
    seen = []

    class Looking(Fake):
        def run(self, typed, log, limit_s):
            seen.append([each["status"] for each in json.loads((tmp_path / "summary.json").read_text())["steps"]])
            return super().run(typed, log, limit_s)

    Looking(b=(1.0, Ended(1))).plan(FOUR[:3], tmp_path)
    assert seen == [["running", "waiting", "waiting"], ["done", "running", "waiting"], ["done", "failed", "running"]]
    page = (tmp_path / "summary.md").read_text()
    assert page.startswith("# Fake\n") and "| b | shows b | failed: exit code 1, a measurement failed; see logs/b.txt | 1 |" in page
    assert f"`humar-bench fps --budget 8 --csv {tmp_path}/c/fps.csv`" in page


def test_ctrl_c_leaves_a_summary_that_says_so(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Fake(b=(0.0, KeyboardInterrupt)).plan(FOUR, tmp_path)
    steps = json.loads((tmp_path / "summary.json").read_text())["steps"]
    assert [each["status"] for each in steps] == [DONE, STOPPED, "waiting", "waiting"] and "interrupted" in steps[1]["note"]


def test_a_gpus_folder_is_its_name_in_lower_case_with_dashes():
    assert gpu.folder_name("NVIDIA H200") == "nvidia-h200" and gpu.folder_name("NVIDIA A100-SXM4-80GB") == "nvidia-a100-sxm4-80gb"


def test_what_an_earlier_run_wrote_is_kept_out_of_the_way(tmp_path):
    place = gpu.fresh_folder(tmp_path / "results" / "some-gpu")
    (place / "summary.md").write_text("old")
    assert gpu.fresh_folder(place) == place and list(place.iterdir()) == []
    assert [each.read_text() for each in (tmp_path / "results" / "local").glob("some-gpu-*/summary.md")] == ["old"]


def test_without_a_cuda_device_it_says_so_in_one_sentence_and_exits_with_two(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu, "find_gpu", lambda: ("", "2.13.0+cpu"))
    assert gpu.main(["--results", str(tmp_path / "results")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "needs a CUDA device and torch 2.13.0+cpu finds none here" in said
    assert not (tmp_path / "results").exists()


def test_make_gpu_installs_and_runs_it():
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # `make test` runs this too
    command = ["make", "--dry-run", "--always-make", "gpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, env=alone)
    assert "pip install" in done.stdout and done.stdout.rstrip().endswith("python -m benchmarks.gpu")


# Processes ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(monkeypatch, tmp_path):
    """A stand-in for the tool: `humar-bench -c CODE` runs that code in Python."""
    class Popen(subprocess.Popen):
        def __init__(self, command, **more):
            super().__init__([command[0], *command[3:]], **more)

    monkeypatch.setattr(gpu.subprocess, "Popen", Popen)
    return lambda code, limit_s: run_command(("humar-bench", "-c", code), tmp_path / "log.txt", limit_s)


def test_a_commands_output_and_exit_code_are_kept(program, tmp_path):
    assert program("import sys; print('hello'); print('there', file=sys.stderr); sys.exit(3)", 60) == Ended(3)
    assert (tmp_path / "log.txt").read_text().splitlines()[1:] == ["hello", "there"]
    assert program("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 60) == Ended(-signal.SIGKILL)


def test_a_command_at_its_limit_is_asked_to_stop_first(program, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "GRACE_S", 20.0)
    code = "import time\ntry:\n  print('begun'); time.sleep(60)\nexcept KeyboardInterrupt:\n  print('records are written')"
    assert program(code, 23.0).stopped
    assert (tmp_path / "log.txt").read_text().endswith("begun\nrecords are written\n")


def test_a_command_that_ignores_it_is_killed_with_all_it_started(program, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "GRACE_S", 0.5)
    child = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    code = (
        f"import signal, subprocess, sys\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}]); print(child.pid, flush=True); child.wait()"
    )
    assert program(code, 3.0).stopped
    pid = int((tmp_path / "log.txt").read_text().splitlines()[-1])
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("what the command had started was still there")


COMMANDS = {each.name for each in app.registered_commands}

# The real tool --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", [each for each in STEPS if each.command[0] == "humar-bench"], ids=lambda each: each.name)
def test_every_command_line_is_one_the_tool_takes_up_to_the_device_that_is_missing_here(each, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    typed = each.typed(tmp_path, each.limit_s)
    if typed[1] not in COMMANDS:
        pytest.skip(f"humar-bench {typed[1]} is not in this version yet")
    assert cli(typed[1:]) == 2
    said = capsys.readouterr().err
    assert "the device 'cuda' was asked for" in said and said.count("\n") == 1


@pytest.mark.parametrize("each", [each for each in STEPS if each.command[0] == "pytest"], ids=lambda each: each.name)
def test_every_test_step_names_tests_that_are_there(each):
    paths = [part for part in each.command if part.startswith("tests/")]
    assert paths and all((ROOT / path).exists() for path in paths)


def test_a_step_that_was_stopped_leaves_records_that_become_tables_which_prove_themselves(tmp_path):
    class Writing(Fake):
        def run(self, typed, log, limit_s):
            records = "".join(f"{each.to_json()}\n" for each in made_up_run("original", "efficient"))
            (tmp_path / log.stem / "records.jsonl").write_text(records[: len(records) if log.stem == "a" else len(records) // 2])
            return super().run(typed, log, limit_s)

    summary = Writing(b=(1e9, Ended(0))).plan(FOUR[:2], tmp_path)
    assert verify(tmp_path / "a").proved and verify(tmp_path / "b").proved  # b's last line is cut short
    assert [each.note for each in summary.results] == ["", "its 99 s were over; what it had written is kept; "
                                                           "its tables are of what it had measured"]


def test_a_step_runs_for_real(tmp_path):
    typed = ("humar-bench", "params", "--workload", "tiny", "--device", "cpu", "--set", "dec_layers=1", "--records", "{out}/records.jsonl")
    summary = run_plan((Step("params", "counts", 100, 1, typed),), tmp_path, 100.0, {"gpu": "none"}, say=lambda _: None)
    assert summary.results[0].status == DONE, (tmp_path / "logs" / "params.txt").read_text()
    assert verify(tmp_path / "params").proved and "parameters" in (tmp_path / "logs" / "params.txt").read_text()


def test_the_script_runs_as_it_is_called():
    if torch.cuda.is_available():
        pytest.skip("it would measure for ten minutes")
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2 and "make bench measures the CPU" in done.stderr
