"""Reports that are killed at random moments, or whose disk is full, and gone on with: at most what was under way is lost, nothing is
measured twice, and the tables are those of a run that was left alone."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from humar_bench import cli
from humar_bench.records.record import RECORDS_NAME, Record, Run, load
from humar_bench.report import report_texts, write_report
from humar_bench.running import bench, costs
from humar_bench.running.children import Child
from humar_bench.saved.verify import verify
from humar_bench.studies.calibrate.calibrate import Settings, cite, make_certificate
from humar_bench.studies.calibrate.tables import write_calibration
from tests.golden.records import ENVIRONMENT as HERE
from tests.golden.records import component_time, flops, fps, memory, params
from tests.studies.test_error_rates import made_up as processes_of_a_calibration

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).parents[1] / "data" / "killed_worker.py"
FAKE = (sys.executable, "-S", "-E", str(WORKER))
MOST_IN_A_ROW = 4
NAMES = ("original", "efficient")
WORK = ["--workload", "tiny", "--device", "cpu", "--processes", "3", "--budget", "1"]

# The command line with made-up children, forked instead of started anew, so that fifty kills take seconds: a process group of its own
# for each run, SIGKILL for the parent, its child or its group after a random part of the time that a whole run takes.
DRIVER = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
from types import SimpleNamespace

sys.modules["humar_bench.devices.opening"] = SimpleNamespace(open_device=lambda name: SimpleNamespace(kind="cpu"))
from humar_bench import cli, report
from humar_bench.saved import regression
from humar_bench.saved import verify
from humar_bench.running import bench, costs
from humar_bench.report import comparison
from humar_bench.judging import speeds
from humar_bench.running.children import Child

fake, work, kills, most, place = json.loads(sys.argv[1])
bench.Child = costs.Child = lambda request, **more: Child(request, **more, command=tuple(fake))
place, chance = Path(place), random.Random(20260102)

def start(folder, log):
    os.environ["JOBS_LOG"] = str(log)
    resumed = (folder / "records.jsonl").exists()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        os.close(1)
        os.open(os.devnull, os.O_WRONLY)
        code = cli.main(["report", *work, "--resume" if resumed else "-o", str(folder)])
        sys.stderr.flush()
    finally:
        os._exit(code)

def whole(folder, log):
    begun = time.monotonic()
    status = os.waitpid(start(folder, log), 0)[1]
    return os.waitstatus_to_exitcode(status), time.monotonic() - begun

code, whole_s = whole(place / "alone", place / "alone.log")
told = {"alone": code, "runs": []}

def child_of(pid):
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and int(Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                return int(name)
        except OSError:
            pass

def kill(pid, victim):
    # whether it was killed
    if victim == "child":
        child = child_of(pid)
        if child is not None:
            os.kill(child, signal.SIGKILL)
        os.waitpid(pid, 0)
        return child is not None
    (os.killpg if victim == "group" else os.kill)(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True

killed = number = 0
while killed < kills:
    folder = place / f"run-{number}"
    number += 1
    steps = []
    for step in range(chance.randint(1, most)):
        log = place / f"{folder.name}-{step}.log"
        log.touch()
        pid = start(folder, log)
        time.sleep(chance.random() * whole_s)
        victim = chance.choice(("parent", "child", "group"))
        if os.waitpid(pid, os.WNOHANG)[0] or not kill(pid, victim):
            victim = ""
        killed += bool(victim)
        kept = place / f"{folder.name}-{step}.jsonl"
        if (folder / "records.jsonl").exists():
            shutil.copy(folder / "records.jsonl", kept)
        else:
            kept.touch()
        steps.append([str(log), str(kept), victim])
    log = place / f"{folder.name}-last.log"
    log.touch()
    code, _ = whole(folder, log)
    steps.append([str(log), str(folder / "records.jsonl"), ""])
    told["runs"].append({"folder": str(folder), "code": code, "steps": steps})
told["killed"] = killed
whole(place / "after", place / "after.log")
told["left"] = os.listdir(os.environ["TMPDIR"])
told["alive"] = []
for name in filter(str.isdigit, os.listdir("/proc")):
    try:
        environ = Path("/proc", name, "environ").read_bytes()
    except OSError:
        continue
    if b"HUMAR_BENCH_CHILD=" in environ and os.environ["TMPDIR"].encode() in environ:
        told["alive"].append(int(name))
print(json.dumps(told))
"""


@pytest.fixture
def values(tmp_path, monkeypatch) -> Path:
    """What the made-up children answer with."""
    made = {make.__name__: {name: make(name).measured for name in NAMES} for make in (params, flops, memory, component_time)}
    made["fps"] = {name: fps(name, 0).measured for name in NAMES}
    path = tmp_path / "values.json"
    path.write_text(json.dumps(made))
    monkeypatch.setenv("JOBS_VALUES", str(path))
    monkeypatch.setenv("JOBS_LOG", str(tmp_path / "jobs.log"))
    return path


@pytest.fixture
def children(values, monkeypatch):
    """The same children for commands that run in this process."""
    for module in (bench, costs):
        monkeypatch.setattr(module, "Child", lambda request, **more: Child(request, **more, command=FAKE))


def rows(run: Run) -> list[tuple]:
    return sorted((each.measure, each.architecture, each.process) for each in run)


def jobs(log: Path) -> list[list[tuple]]:
    """The rows of each child that was begun; one that only predicts what another measures is none."""
    return [[tuple(row) for row in json.loads(line)] for line in log.read_text().splitlines()]


def in_plan_order(run: Run, like: Run) -> Run:
    """The records as a run that was left alone would have written them."""
    order = [(each.measure, each.architecture, each.process) for each in like]
    return Run(tuple(sorted(run, key=lambda each: order.index((each.measure, each.architecture, each.process)))))


needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children die with their parent through prctl")


@needs_linux
@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_at_most_what_was_under_way_and_measure_nothing_twice(values, tmp_path, say, kills):
    (tmp_path / "tmp").mkdir()
    asked = json.dumps([FAKE, WORK, kills, MOST_IN_A_ROW, str(tmp_path)])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run([sys.executable, "-c", DRIVER, asked], capture_output=True, text=True, env=environment, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    alone = load(tmp_path / "alone")
    assert told["alone"] == 0 and told["killed"] >= kills and verify(tmp_path / "alone").proved
    lost_in_all, kept_in_all = 0, 0
    for each in told["runs"]:
        recorded: set[tuple] = set()
        children_killed = 0
        for log, kept, killed in each["steps"]:
            begun = jobs(Path(log))
            assert not [job for job in begun if recorded.issuperset(job)], "a measurement that was on disk was made again"
            now = load(kept)
            children_killed += killed == "child"
            assert len(now.failed) <= children_killed, "more failed than children were killed"
            now = now.select(status="ok")
            assert recorded <= set(rows(now)), "a record that was on disk is gone"
            recorded = set(rows(now))
            lost = [job for job in begun if not recorded.issuperset(job)]
            assert len(lost) <= 1 and (killed or not lost)
            lost_in_all, kept_in_all = lost_in_all + len(lost), kept_in_all + (len(recorded) if killed else 0)
        folder = Path(each["folder"])
        run = load(folder)
        ok = run.select(status="ok")
        assert each["code"] == 0 and run.notes == () and rows(ok) == rows(alone), "a row is missing, or stands twice"
        assert len({record.key for record in ok}) == len(ok) and len({record.id for record in run}) == len(run)
        assert verify(folder).proved
        assert_same_tables(folder, in_plan_order(run.latest(), alone))
    assert told["left"] == [] and told["alive"] == [], "something of a killed run is still there after the next one"
    assert kept_in_all > 0 or kills < 50  # some of fifty kills come after something has been measured
    say(f"{told['killed']} kills in {len(told['runs'])} reports: {lost_in_all} measurements under way lost, none twice")


def assert_same_tables(folder: Path, run: Run) -> None:
    """The folder's tables are those of `run`, but for the order in which the commands that made it are named."""
    for name, text in report_texts(run).items():
        found = (folder / name).read_text()
        if name.endswith(".csv"):
            assert found == text
        else:
            assert sorted(found.splitlines()) == sorted(text.splitlines())
            assert [line for line in found.splitlines() if "Made by" not in line] == [
                line for line in text.splitlines() if "Made by" not in line
            ]


@needs_linux
def test_the_test_of_the_tables_can_fail(children, tmp_path, capsys):
    assert cli.main(["report", *WORK, "-q", "-o", str(tmp_path / "run")]) == 0
    run = load(tmp_path / "run")
    assert_same_tables(tmp_path / "run", run)
    with pytest.raises(AssertionError):
        assert_same_tables(tmp_path / "run", Run(tuple(each for each in run if (each.measure, each.process) != ("fps", 2))))


FULL_DISK = """
import json, resource, sys
from types import SimpleNamespace

sys.modules["humar_bench.devices.opening"] = SimpleNamespace(open_device=lambda name: SimpleNamespace(kind="cpu"))
from humar_bench import cli
from humar_bench.running import bench, costs
from humar_bench.running.children import Child

fake, limit_bytes, argv = json.loads(sys.argv[1])
bench.Child = costs.Child = lambda request, **more: Child(request, **more, command=tuple(fake))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
sys.exit(cli.main(argv))
"""


@needs_linux
@pytest.mark.parametrize("limit_bytes", [6_000, 9_000, 20_000])
def test_a_full_disk_ends_a_report_with_one_sentence_and_it_goes_on_once_there_is_room(children, tmp_path, capsys, limit_bytes):
    folder = tmp_path / "run"
    asked = json.dumps([FAKE, limit_bytes, ["report", *WORK, "-o", str(folder)]])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", FULL_DISK, asked], capture_output=True, text=True, env=environment, check=False)
    last = done.stderr.splitlines()[-1]  # after what was known already
    assert (done.returncode, done.stdout) == (1, "") and "Traceback" not in done.stderr
    assert "could not be written" in last and "File too large" in last
    kept = load(folder)
    assert kept.notes == () and 0 < len(kept) and (folder / RECORDS_NAME).stat().st_size <= limit_bytes
    (tmp_path / "jobs.log").unlink()
    assert cli.main(["report", *WORK, "-q", "--resume", str(folder)]) == 0
    assert not {row for job in jobs(tmp_path / "jobs.log") for row in job} & set(rows(kept))
    assert verify(folder).proved and load(folder).records[: len(kept)] == kept.records


@needs_linux
def test_a_torn_last_line_is_measured_again_and_the_report_is_whole(children, tmp_path, capsys):
    folder = tmp_path / "run"
    assert cli.main(["report", *WORK, "-q", "-o", str(folder)]) == 0
    whole = load(folder)
    path = folder / RECORDS_NAME
    path.write_bytes(path.read_bytes()[:-100])
    (tmp_path / "jobs.log").unlink()
    assert not verify(folder).proved
    assert cli.main(["report", *WORK, "-q", "--resume", str(folder)]) == 0
    assert [job[0][0] for job in jobs(tmp_path / "jobs.log")] == ["component_time"] and verify(folder).proved
    assert rows(load(folder).latest()) == rows(whole)


@needs_linux
@pytest.mark.parametrize("command", ["params", "flops", "memory", "fps", "fps --by-component"])
def test_every_measuring_command_appends_its_records_and_goes_on_with_them(children, tmp_path, capsys, command):
    command, work = command.split(), WORK if command.startswith("fps") else WORK[:4]
    path, log = tmp_path / "r.jsonl", tmp_path / "jobs.log"
    assert cli.main([*command, *work, "--records", str(path)]) == 0
    whole, screen = load(path), capsys.readouterr().out
    log.unlink()
    assert cli.main([*command, *work, "--resume", str(path)]) == 0
    assert not log.exists() and load(path) == whole  # nothing was left to do
    assert capsys.readouterr().out == screen
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert cli.main([*command, *work, "--resume", str(path), "-q"]) == 0
    assert len(jobs(log)) == 1 and rows(load(path).latest()) == rows(whole)


@needs_linux
def test_a_command_goes_on_with_a_reports_folder_and_leaves_its_other_measures_alone(children, tmp_path, capsys):
    folder = tmp_path / "run"
    assert cli.main(["report", *WORK, "-q", "-o", str(folder)]) == 0
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert cli.main(["params", *WORK[:4], "--resume", str(folder), "--csv", "-"]) == 0
    assert capsys.readouterr().out == (folder / "params.csv").read_text()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@needs_linux
@pytest.mark.parametrize(("other", "said"), [
    (["--budget", "2"], "was measured with budget 1.0 and 2.0 is asked now"), (["--processes", "2"], "with processes 3 and 2 is asked"),
    (["--batch", "1"], "with batch 2 and 1 is asked"), (["--seed", "1"], "with seed 0 and 1 is asked"),
    (["--set", "enc_layers=1"], "with enc_layers 6 and 1 is asked"), (["--records", "x"], "give one of the two"),
])
def test_a_resumed_command_must_ask_the_same_again(children, tmp_path, capsys, other, said):
    path = tmp_path / "r.jsonl"
    assert cli.main(["fps", *WORK, "-q", "--records", str(path)]) == 0
    capsys.readouterr()
    assert cli.main(["fps", *WORK, *other, "--resume", str(path)]) == 2
    assert said in capsys.readouterr().err


@needs_linux
@pytest.mark.parametrize("measure", ["params", "fps"])
def test_a_run_of_another_machine_or_version_is_not_gone_on_with(children, tmp_path, capsys, measure):
    folder = tmp_path / "run"
    assert cli.main(["report", *WORK, "-q", "-o", str(folder)]) == 0
    path = folder / RECORDS_NAME
    other = [dataclasses.replace(each, environment={**each.environment, "python": "2"}, id="") for each in load(path)]
    path.write_text("".join(each.to_json() + "\n" for each in other if each.measure != measure))
    before = path.read_bytes()
    assert cli.main(["report", *WORK, "-q", "--resume", str(folder)]) == 2
    said = "was measured with python 2 and 3 is here now; go on where it was measured, or measure anew in a folder of its own."
    assert said in capsys.readouterr().err and path.read_bytes() == before


@needs_linux
@pytest.mark.parametrize(("spoil", "said"), [
    (lambda lines: [lines[0].replace('"total": ', '"total": 1'), *lines[1:]], "the record was changed after it was measured"),
    (lambda lines: [*lines, lines[1]], "it is the record of line 2 a second time"),
    (lambda lines: [lines[0].replace('", "', '","', 1), *lines[1:]], "the line was written anew by something else"),
    (lambda lines: [again(lines[0], total=-1), *lines[1:]], "total is -1; it must be a whole number of at least 0"),
    (lambda lines: [again(lines[0], listed=1), *lines[1:]], "it contradicts itself: its names list 1 parameters"),
])
@pytest.mark.parametrize("command", ["params", "report"])
def test_records_that_verify_refuses_are_not_gone_on_with(children, tmp_path, capsys, command, spoil, said):
    folder = tmp_path / "run"
    assert cli.main(["report", *WORK, "-q", "-o", str(folder)]) == 0
    path = folder / RECORDS_NAME
    path.write_text("".join(spoil(path.read_text().splitlines(keepends=True))))
    before = {each: each.read_bytes() for each in folder.iterdir()}
    assert cli.main([command, *(WORK if command == "report" else WORK[:4]), "--resume", str(folder)]) == 5
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and said in printed.err and "humar-bench verify names all" in printed.err
    assert {each: each.read_bytes() for each in folder.iterdir()} == before


def again(line: str, **measured) -> str:
    """A record with other values and an id made anew."""
    record = Record.from_json(line)
    return dataclasses.replace(record, measured={**record.measured, **measured}, id="").to_json() + "\n"


@needs_linux
def test_times_under_a_certificate_cite_it_and_go_on_under_the_same_one_only(children, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("humar_bench.devices.environment.environment", lambda device: HERE)
    made = write_calibration(make_certificate(processes_of_a_calibration(processes=3, rounds=9), Settings(), HERE), tmp_path)
    path, under = tmp_path / "r.jsonl", ["--certificate", str(tmp_path)]
    assert cli.main(["fps", *WORK, *under, "--records", str(path)]) == 0
    screen = capsys.readouterr().out
    assert f"Calibrated: certificate {cite(made)} (CPU time, 1 thread): false alarms 0 of" in " ".join(screen.split())
    assert cli.main(["fps", *WORK, *under, "--resume", str(path)]) == 0 and capsys.readouterr().out == screen
    assert cli.main(["fps", *WORK, "--resume", str(path)]) == 2
    assert f"was measured under certificate {cite(made)} and none is asked now; ask the same again." in capsys.readouterr().err
    monkeypatch.setattr("humar_bench.devices.environment.environment", lambda device: {**HERE, "torch": "2.14"})
    (tmp_path / "jobs.log").unlink()
    assert cli.main(["report", *WORK, *under, "-o", str(tmp_path / "run")]) == 2
    assert "was made with torch 2.13.0 and 2.14 is measured with here" in capsys.readouterr().err
    assert not (tmp_path / "jobs.log").exists()


@needs_linux
def test_a_measurement_made_again_stands_once_in_the_report_and_in_its_json(children, tmp_path, capsys):
    folder = tmp_path / "run"
    assert cli.main(["report", *WORK, "-q", "-o", str(folder)]) == 0
    first = load(folder).select(measure="fps", architecture="original", process=1)[0]
    lines = (folder / RECORDS_NAME).read_text().splitlines(keepends=True)
    (folder / RECORDS_NAME).write_text("".join(line for line in lines if not ('"efficient"' in line and '"process": 1,' in line)))
    assert cli.main(["report", *WORK, "-q", "--resume", str(folder), "--json", str(tmp_path / "out.json")]) == 0
    assert len(json.loads((tmp_path / "out.json").read_text())["fps"]["original"]["records"]) == 3
    assert first in load(folder).records and first not in load(folder).latest().records and verify(folder).proved
    write_report(load(folder).latest(), tmp_path)
    assert (tmp_path / "fps.csv").read_bytes() == (folder / "fps.csv").read_bytes()
