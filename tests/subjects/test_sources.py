"""The current folder never decides which code runs: not the standard library's, not torch, not our own packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from humar_bench import cli
from humar_bench.errors import UsageError
from humar_bench.subjects import sources
from humar_bench.subjects.registry import check_architecture, load_builder

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ("torch", "numpy", "scipy", "pandas", "typer", "rich")
MAIN = (sys.executable, "-P", "-c", "import sys; from humar_bench.cli import main; sys.exit(main(sys.argv[1:]))")  # as the console script
MODULE = (sys.executable, "-m", "humar_bench")


@pytest.fixture
def hostile(tmp_path) -> Path:
    """A folder with modules of every name that is ever imported; whichever runs leaves a mark and fails."""
    folder = tmp_path / "here"
    code = f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__ + ' ')\nraise RuntimeError('hijacked')\n"
    early = ("contextlib", "functools", "types", "warnings", "threading", "collections", "operator", "keyword", "reprlib")
    for name in {*sys.stdlib_module_names, *INSTALLED} - {*sys.builtin_module_names, *early}:  # Python itself imports these before us
        (folder / f"{name}.py").parent.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(code)
    for name in ("efficient", "baselines", "triton", "onnxruntime"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(code)
    return folder


def run(command: tuple[str, ...], folder: Path, path: str = str(ROOT)) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"} | {"PYTHONPATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", [(*MAIN, "list"), (*MODULE, "list"), (*sources.child_command("humar_bench"), "list")],
                         ids=["console script", "python -m", "child"])
def test_nothing_of_the_current_folder_runs(hostile, tmp_path, command):
    done = run(command, hostile)
    assert (done.returncode, done.stderr) == (0, "") and "Architectures" in done.stdout
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("command", [MAIN, MODULE], ids=["console script", "python -m"])
def test_a_measurement_in_a_hostile_folder_is_of_our_own_files_and_says_what_it_passed_over(hostile, tmp_path, command):
    done = run((*command, "params", "--workload", "tiny", "--arch", "efficient", "--csv", "-"), hostile)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "total,4449956", done.stderr
    assert not (tmp_path / "ran").exists()
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("humar-bench: note: ")
    assert "in the current folder are not used" in done.stderr


@pytest.mark.parametrize("more", ["", "."])
@pytest.mark.parametrize("way", ["command", "module"])
def test_a_module_path_that_names_the_current_folder_has_it_last(hostile, tmp_path, way, more):
    """An empty piece is the current folder: `PYTHONPATH=/mine:$PYTHONPATH` has one where nothing was set before."""
    for path in hostile.glob("*.py"):  # Python itself and the files of site-packages import some of the standard library before us
        if path.stem not in ("json", "csv", "tempfile", "argparse", *INSTALLED):
            path.unlink()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "humar-bench").write_text("import sys\nfrom humar_bench.__main__ import main\nsys.exit(main())\n")
    command = (sys.executable, str(tmp_path / "bin" / "humar-bench")) if way == "command" else MODULE
    done = run((*command, "list"), hostile, path=f"{ROOT}{os.pathsep}{more}")
    assert done.returncode == 0 and "Architectures" in done.stdout, done.stderr
    assert not (tmp_path / "ran").exists()


def test_the_test_of_the_current_folder_can_fail(hostile, tmp_path):
    run((sys.executable, "-m", "timeit", "-n1", "import efficient"), hostile)
    assert (tmp_path / "ran").read_text()


def test_an_own_checkout_works_from_within_and_its_strangers_come_last(tmp_path):
    """Where the package lies in the current folder, python -m finds it, and still nothing there comes before what is installed."""
    for name in sources.OWN:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "json.py").write_text("raise RuntimeError('hijacked')")
    done = run((*MODULE, "list"), tmp_path, path="")
    assert done.returncode == 0, done.stderr


def test_a_child_has_the_current_folder_last_where_it_is_asked_for_and_not_at_all_where_it_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lib").mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", "lib", str(tmp_path), "/nowhere"]))
    assert sources.child_environment()["PYTHONPATH"].split(os.pathsep) == ["lib", "/nowhere", ".", str(tmp_path)]
    monkeypatch.setenv("PYTHONPATH", "")
    assert "PYTHONPATH" not in sources.child_environment()
    assert sources.child_environment()["PYTHONSAFEPATH"] == "1"


def test_names_are_shadowed_where_python_would_have_taken_them_first(tmp_path):
    built = f"queue{sources.EXTENSION_SUFFIXES[0]}"
    for name in ("torch.py", "json.py", "model.py", "test.py", "json.txt", "utils.pyc", "__init__.py", built):
        (tmp_path / name).touch()
    for name in ("efficient", "rich"):
        (tmp_path / name).mkdir()
    (tmp_path / "efficient" / "__init__.py").touch()
    assert sources.shadowed(str(tmp_path)) == ["efficient/", "json.py", built, "torch.py"]
    assert sources.shadowed(str(ROOT)) == [] == sources.shadowed(str(tmp_path / "missing"))


def test_the_folder_of_a_foreign_file_is_looked_at_too(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "mine.py").write_text("def build(args): pass")
    (tmp_path / "torch.py").touch()
    monkeypatch.setattr("humar_bench.running.bench.benchmark", lambda *given, **more: (_ for _ in ()).throw(UsageError("enough.")))
    assert cli.main(["params", "--arch", f"mine={tmp_path}/mine.py:build"]) == 2
    assert f"note: torch.py in {tmp_path} is not used; humar-bench runs its own" in capsys.readouterr().err


def test_looking_for_a_foreign_module_leaves_the_module_path_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_models_here.py").write_text("def build(args): pass")
    before = list(sys.path)
    check_architecture("my_models_here:build")
    assert sys.path == before
    with pytest.raises(UsageError, match="there is no module 'no_models_here' here"):
        check_architecture("no_models_here:build")


def test_a_stranger_under_one_of_our_names_is_not_taken_for_ours(tmp_path):
    """A program of somebody else's that has an `efficient` of its own: ours is loaded past it, or refused where theirs is there already."""
    (tmp_path / "efficient").mkdir()
    (tmp_path / "efficient" / "__init__.py").write_text("theirs = True")
    load = "from humar_bench.subjects.registry import load_builder; print(load_builder('efficient').__module__)"
    done = run((sys.executable, "-c", load), tmp_path)
    assert done.stdout == "efficient.transformer\n", done.stderr
    done = run((sys.executable, "-c", f"import efficient; {load}"), tmp_path)
    assert "UsageError: efficient is already loaded from " in done.stderr and "stands in the way of humar-bench's own" in done.stderr
    assert sources.stranger("efficient") == "" and sources.OwnPackages not in sys.meta_path[1:]
    assert load_builder("efficient").__module__ == "efficient.transformer"


def test_a_childs_waiting_threads_sleep_soon_unless_the_user_says_how_they_wait(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert sources.child_environment()["GOMP_SPINCOUNT"] == sources.SPINS["GOMP_SPINCOUNT"]
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert sources.child_environment()["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "GOMP_SPINCOUNT" not in sources.child_environment()
