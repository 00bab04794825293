"""Where results go: no two outputs on one file, nothing of the user's written over, and what was measured is seen whatever happens to a
file while a run goes on. `bench.benchmark` is a stub."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from humar_bench.records.record import RECORDS_NAME, load
from humar_bench.report import refuse_shared
from humar_bench.running import leftovers
from humar_bench.studies import MAKERS, TABLES, files_of
from tests.cli.stub import ROOT, Stub, ends


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Every test runs in a folder of its own with a few files of the user's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("note")
    (tmp_path / "link").symlink_to("note.txt")
    (tmp_path / "args.json").write_text('{"dec_layers": 2}')
    (tmp_path / "mine.py").write_text("def build(args): pass\n")
    (tmp_path / "x.md").write_text("old")
    (tmp_path / "hard.md").hardlink_to(tmp_path / "x.md")
    (tmp_path / "dir").mkdir()
    (tmp_path / "same").symlink_to("dir")


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


SHARED = [  # command line, what the two are called
    (["params", "--records", "a", "--csv", "a"], "--csv 'a'", "--records 'a'"),
    (["params", "--csv", "x", "--json", "x"], "--csv 'x'", "--json 'x'"),
    (["params", "--csv", "x", "--markdown", "./dir/../x"], "--csv 'x'", "--markdown './dir/../x'"),
    (["params", "--markdown", "x.md", "--json", "hard.md"], "--markdown 'x.md'", "--json 'hard.md'"),
    (["params", "--csv", "dir/x", "--json", "same/x"], "--csv 'dir/x'", "--json 'same/x'"),
    (["params", "--csv", "out.CSV", "--json", "out.csv"], "--csv 'out.CSV'", "--json 'out.csv'"),
    (["params", "--csv", "caf\u00e9", "--json", "cafe\u0301"], "--csv 'caf\u00e9'", "--json 'cafe\u0301'"),
    (["params", "--csv", "note.txt", "--markdown", "link"], "--csv 'note.txt'", "--markdown 'link'"),
    (["params", "--records", "dir", "--csv", f"same/{RECORDS_NAME}"], "--csv", f"--records 'dir/{RECORDS_NAME}'"),
    (["report", "-o", "dir", "--markdown", "dir/report.md"], "--markdown 'dir/report.md'", "report.md of -o dir"),
    (["report", "-o", "dir", "--json", f"same/{RECORDS_NAME}"], "--json", f"{RECORDS_NAME} of -o dir"),
    (["report", "-o", "new", "--json", "new/params.csv"], "--json 'new/params.csv'", "params.csv of -o new"),
    (["report", "-o", "new", "--markdown", "new"], "--markdown 'new'", "-o 'new'"),
    (["ablate", "-o", "dir", "--csv", "dir/ablation.csv"], "--csv 'dir/ablation.csv'", "ablation.csv of -o dir"),
    (["scaling", "-o", "dir", "--plot", "dir/scaling.png"], "--plot 'dir/scaling.png'", "scaling.png of -o dir"),
    (["scaling", "--plot", "x.png", "--csv", "x.png"], "--csv 'x.png'", "--plot 'x.png'"),
    (["claims", "-o", "dir", "--markdown", "dir/claims.md"], "--markdown", "claims.md of -o dir"),
    (["calibrate", "-o", "dir", "--json", "dir/certificate.json"], "--json", "certificate.json of -o dir"),
    (["params", "--args", "args.json", "--json", "args.json"], "--json 'args.json'", "--args 'args.json'"),
    (["params", "--arch", "original", "--arch", "m=mine.py:build", "--csv", "mine.py"], "--csv 'mine.py'", "--arch m 'mine.py'"),
    (["params", "--arch", "original", "--arch", "m=mine.py:build", "--records", "mine.py"], "--records 'mine.py'", "--arch m 'mine.py'"),
]


@pytest.mark.parametrize(("argv", "one", "other"), SHARED, ids=[" ".join(argv) for argv, *_ in SHARED])
def test_two_outputs_on_one_file_are_refused_and_both_named(bench, capsys, argv, one, other):  # noqa: F811
    before = contents()
    code, out, err = ends(capsys, *argv)
    assert (code, out, err.count("\n")) == (2, "", 1) and not bench.calls
    assert one in err and other in err and "one file" in err
    assert contents() == before, "something was written"


def test_resumed_records_are_an_output_too(bench, capsys):  # noqa: F811
    assert ends(capsys, "params", "--records", "r.jsonl")[0] == 0
    for argv in (["--csv", "r.jsonl"], ["--markdown", "./r.jsonl"]):
        code, _, err = ends(capsys, "params", "--resume", "r.jsonl", *argv)
        assert code == 2 and "--resume 'r.jsonl'" in err and len(load("r.jsonl")) == 2


def test_different_files_and_devices_are_let_through(bench, capsys):  # noqa: F811
    argv = ["--csv", "a.csv", "--json", "a.json", "--markdown", "dir/a.csv", "--records", "a.jsonl"]
    assert ends(capsys, "params", *argv)[0] == 0
    assert ends(capsys, "params", "--csv", os.devnull, "--json", os.devnull)[0] == 0
    refuse_shared({"--a": "x/y", "--b": "x/z"}, {"--c": "note.txt", "--d": "note.txt"})


def test_standard_output_that_goes_into_an_output_is_refused():
    """The shell has opened it: what is written there last would be all that is left."""
    command = [sys.executable, "-P", "-c", "import sys; from humar_bench.cli import main; sys.exit(main(sys.argv[1:]))", "params"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name, where, argv in (("standard output", "stdout", []), ("standard error", "stderr", ["-q"])):
        with open("table.csv", "wb") as file:
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, where: file}
            done = subprocess.run([*command, *argv, "--csv", "table.csv"], env=environment, check=False, **streams)
        assert done.returncode == 2
        said = (done.stderr or Path("table.csv").read_bytes()).decode()
        assert f"--csv 'table.csv' and {name} are one file" in said


def test_the_files_of_a_study_are_those_it_writes():
    assert set(TABLES) == set(MAKERS)
    for study in ("scaling", "ablate", "claims", "backends"):
        there = {path.name for path in (ROOT / "results" / f"cpu-{study}").iterdir()} - {RECORDS_NAME}
        assert there <= set(files_of(study)) and {name for name in files_of(study) if name.endswith(".csv")} <= there


# The user's own files


@pytest.mark.parametrize("name", ["note.txt", "link", "mine.py", "x.md"])
def test_a_file_that_holds_no_records_is_no_place_for_them(bench, capsys, name):  # noqa: F811
    before = contents()
    code, out, err = ends(capsys, "params", "--records", name)
    assert (code, out) == (2, "") and err.count("\n") == 1 and "is no records file, its first line is '" in err
    assert contents() == before and not bench.calls


@pytest.mark.parametrize(("argv", "name"), [
    (["report"], "report.md"), (["report"], "fps.csv"), (["ablate"], "ablate.md"), (["scaling"], "study.json"),
    (["calibrate"], "calibration.md"),
])
def test_a_new_run_does_not_write_over_what_lies_in_its_folder(bench, capsys, argv, name):  # noqa: F811
    Path("dir", name).write_text("mine")
    code, _, err = ends(capsys, *argv, "-o", "dir")
    assert code == 2 and f"-o 'dir' already holds {name}, which would be written over; name another folder." in err
    assert Path("dir", name).read_text() == "mine" and not bench.calls


# While a run goes on


class Meddler(Stub):
    """The stub bench, in whose midst something happens to the folder."""

    def __init__(self, happen, after: int) -> None:
        super().__init__()
        self.happen, self.after = happen, after

    def __call__(self, *given, sink=None, **more):
        written = []

        class Sink:
            def write(_, *records):
                if len(written) == self.after:
                    self.happen(Path("run"))
                written.extend(records)
                sink.write(*records)

        run = super().__call__(*given, sink=Sink(), **more)
        if len(written) == self.after:
            self.happen(Path("run"))
        return run


HAPPENS = {
    "removed": shutil.rmtree, "renamed": lambda folder: folder.rename("other"), "cut": lambda folder: os.truncate(folder / RECORDS_NAME, 9),
    "file removed": lambda folder: (folder / RECORDS_NAME).unlink(),
    "replaced": lambda folder: (folder.rename("other"), folder.mkdir()),
}


@pytest.mark.parametrize("after", [1, 5, 10])
@pytest.mark.parametrize("happen", HAPPENS)
def test_a_report_whose_folder_is_meddled_with_stops_and_shows_what_is_known(monkeypatch, capsys, happen, after):
    stub = Meddler(HAPPENS[happen], after)
    monkeypatch.setattr("humar_bench.running.bench.benchmark", stub)
    code, out, err = ends(capsys, "report", "-o", "run", "--json", "all.json")
    last = err.splitlines()[-1]  # after the early rows
    assert code == 1 and "while the run went on, so it stopped; all that was measured is in " in last and "Traceback" not in err
    kept = Path(last.rpartition(" is in ")[2].strip().rstrip("."))
    run = load(kept)
    assert len(run) == min(after + 1, 10) and "Parameters" in out and ("Memory" in out) == (after == 10) and Path("all.json").exists()
    assert not Path("run", "report.md").exists()


def test_a_study_whose_records_are_lost_shows_one_row_a_record(monkeypatch, capsys):
    from humar_bench.studies import ablate as room

    def measure(plan, sink, **given):
        sink.write(*[each for each in load("made.jsonl")][:3])
        shutil.rmtree("run")
        sink.write(*[each for each in load("made.jsonl")][3:])

    monkeypatch.setattr("humar_bench.running.bench.benchmark", Stub())
    assert ends(capsys, "fps", "--records", "made.jsonl")[0] == 0
    assert ends(capsys, "report", "-o", "whole")[0] == 0
    shutil.copy(Path("whole", RECORDS_NAME), "made.jsonl")
    monkeypatch.setattr(room, "measure_ablation", measure)
    code, out, err = ends(capsys, "ablate", "-o", "run", "--no-time")
    assert code == 1 and "all that was measured is in " in err
    for said in ("What was measured", "27,343,636 parameters", "ms, median of", "bytes at the peak", "FLOPs"):
        assert said in out


def test_tables_are_shown_and_other_formats_written_when_one_output_cannot_be(bench, capsys, monkeypatch):  # noqa: F811
    real = os.replace

    def full(old, new):
        if str(new).endswith("table.csv"):
            raise OSError(28, "No space left on device")
        real(old, new)

    monkeypatch.setattr(os, "replace", full)
    code, out, err = ends(capsys, "params", "--csv", "table.csv", "--json", "all.json")
    assert code == 1 and "27,343,636" in out and Path("all.json").exists() and "No space left on device" in err
    assert not Path("table.csv").exists()


@pytest.mark.parametrize("path", ["pipe", "to-device"])
@pytest.mark.parametrize("argv", [
    ["params", "--records"], ["params", "--csv"], ["flops", "--json"], ["memory", "--markdown"], ["scaling", "--plot"],
    ["variants", "--csv"], ["claims", "--markdown"], ["calibrate", "--json"], ["data", "show", "-o"], ["warm-start", "-o"],
    ["evaluate", "note.txt", "--csv"], ["search", "--no-train", "--records"],
])
def test_only_regular_files_are_written(bench, capsys, monkeypatch, argv, path):  # noqa: F811
    monkeypatch.setattr("humar_bench.report.plot.check_plot", lambda path: None)
    os.mkfifo("pipe")
    Path("to-device").symlink_to("/dev/zero")
    code, out, err = ends(capsys, *argv, path)
    kind = "a pipe" if "pipe" in path else "a device"
    assert (code, out) == (2, "") and f"{argv[-1].replace('-o', '--out')} '{path}' is {kind} and only regular files are written" in err
    assert not bench.calls and err.count("\n") == 1


def test_the_null_device_takes_tables_and_no_records(bench, capsys):  # noqa: F811
    assert ends(capsys, "params", "--csv", os.devnull)[0] == 0
    code, _, err = ends(capsys, "params", "--records", os.devnull)
    assert code == 2 and "is a device and only regular files are written; name a file, so that nothing is lost." in err


@pytest.mark.parametrize("name", ["report.md", RECORDS_NAME])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_folder_whose_files_are_pipes_or_devices_is_refused(bench, capsys, name, kind):  # noqa: F811
    if kind == "pipe":
        os.mkfifo(Path("dir", name))
    else:
        Path("dir", name).symlink_to("/dev/null")
    code, out, err = ends(capsys, "report", "-o", "dir")
    assert (code, out) == (2, "") and f"{name} of -o dir 'dir/{name}' is a {kind} and only regular" in err and not bench.calls


@pytest.mark.parametrize("name", ["report.md", "params.csv"])
def test_a_run_is_gone_on_with_through_no_link_out_of_its_folder(bench, capsys, name):  # noqa: F811
    assert ends(capsys, "report", "-o", "run")[0] == 0
    calls = len(bench.calls)
    Path("run", name).rename("elsewhere")
    Path("run", name).symlink_to("../elsewhere")
    before = contents()
    code, out, err = ends(capsys, "report", "--resume", "run")
    assert (code, out) == (2, "") and f"{Path('run', name)} is a link that leads out of the folder; move it away" in err
    assert contents() == before and len(bench.calls) == calls
    Path("run", name).unlink()
    Path("elsewhere").rename(Path("run", "inside"))
    Path("run", name).symlink_to("inside")
    assert ends(capsys, "report", "--resume", "run")[0] == 0


def test_a_file_that_becomes_a_pipe_while_a_run_goes_on_is_not_waited_for(capsys, monkeypatch):
    def happen(folder: Path) -> None:
        os.mkfifo("table.csv")

    stub = Meddler(happen, 1)
    monkeypatch.setattr("humar_bench.running.bench.benchmark", stub)
    code, out, err = ends(capsys, "params", "--records", "r.jsonl", "--csv", "table.csv")
    assert code == 1 and "27,343,636" in out and "table.csv could not be written: it is a pipe" in err


def test_runs_that_are_kept_nowhere_are_swept_up_after_a_kill(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    code = "import os; from humar_bench.cli.shared import runs_folder\nwith runs_folder(None) as made: os._exit(9)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2])
    assert done.returncode == 9 and len(list(folder.iterdir())) == 1
    leftovers.sweep()
    assert list(folder.iterdir()) == []
