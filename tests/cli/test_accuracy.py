"""`humar-bench accuracy` and `claims --accuracy` from the command line: what is refused, what is written, and one small study for real."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter

import pytest

from humar_bench.cli import main
from humar_bench.errors import EXIT_DONE, EXIT_INVALID, EXIT_USAGE
from humar_bench.records.record import load
from humar_bench.records.writer import RecordWriter
from humar_bench.report.study import write_study
from humar_bench.saved.verify import verify
from humar_bench.studies.accuracy import accuracy as study
from tests.studies.made_up_study import Made, measured

TINY = ("--level", "0", "--size", "64", "--pictures", "64", "--val", "24", "--seeds", "2", "--warm", "80", "--ring", "published")
PROGRAM = [sys.executable, "-c", "import sys; from humar_bench.cli import main; sys.exit(main(sys.argv[1:]))"]


@pytest.mark.parametrize(("typed", "said"), [
    (("--preset", "tpu"), "--preset is 'tpu'; choose one of cpu, gpu, refhuman."),
    (("--rates", "1e-3,x"), "--rates is '1e-3,x'; write numbers with commas between them"),
    (("--rates", "1e-3,2,3e-3"), "every learning rate must be above 0 and below 1"),
    (("--time-limit", "0"), "--time-limit is 0; it must be a number of seconds above 0"),
    (("--seeds", "1"), "--seeds is 1; it must be from 2 to 1000"),
    (("--preset", "refhuman"), "name it with --data"),
    (("--arch", "original"), "name at least two"),
    (("--front-share", "2", "--seeds", "1"), "--front-share is 2; it must be from 0"),
])
def test_what_cannot_be_is_one_sentence(typed, said, capsys):
    assert main(["accuracy", *typed]) == EXIT_USAGE
    captured = capsys.readouterr()
    assert said in " ".join(captured.err.split()) and captured.out == ""


@pytest.mark.parametrize("typed", [["accuracy", "-o"], ["train", "--pictures", "16", "--data", "procedural:0", "-o"]])
def test_without_the_extra_nothing_starts_and_one_sentence_asks_for_it(tmp_path, typed, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "safetensors" else real(name, *more))
    assert main([*typed, str(tmp_path / "new")]) == EXIT_USAGE
    said = 'training needs the package safetensors, which is not installed; run pip install "humar-bench[train]".'
    assert capsys.readouterr().err == f"humar-bench: {said}\n" and not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["runs", "rendered", "front_end.safetensors"])
def test_a_folder_of_somebodys_is_refused_untouched(tmp_path, name, capsys):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("mine")
    assert main(["accuracy", "-o", str(tmp_path)]) == EXIT_USAGE
    assert f"already holds {name}, which would be written over" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.rglob("*")] == [name, "mine.txt"]


def test_help_names_every_end(capsys):
    assert main(["accuracy", "--help"]) == EXIT_DONE
    text = " ".join(capsys.readouterr().out.split())
    assert "3 loses, 4 undecided, 5 invalid" in text and "early accuracy on small models" in text


def test_help_needs_no_torch():
    code = "import sys; from humar_bench.cli import main; main(['accuracy', '--help']); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_study_ends_with_its_verdict_and_goes_on(tmp_path, monkeypatch, capsys):
    made = Made(retention={"efficient": 0.5})
    monkeypatch.setattr(study, "measure_accuracy", lambda *args, **more: _measured(made, *args, **more))
    folder = tmp_path / "study"
    typed = ["accuracy", "--level", "0", "--ring", "published", "--pictures", "400", "--val", "200"]
    assert main([*typed, "-o", str(folder)]) == 3
    assert "loses" in capsys.readouterr().out and verify(folder).proved
    assert main([*typed, "-o", str(folder)]) == EXIT_USAGE
    assert "already holds records" in capsys.readouterr().err
    before = len(made.asked)
    assert main([*typed, "--resume", str(folder), "--json", "-"]) == 3 and len(made.asked) == before
    assert json.loads(capsys.readouterr().out)["exit_code"] == 3


_real = study.measure_accuracy


def _measured(made, *args, **more):
    return _real(*args, **{**more, "children": made.children, "now": made.now})


# claims ---------------------------------------------------------------------------------------------------------------------------


def kept(folder, **world):
    with RecordWriter(folder / "records.jsonl") as sink:
        found = measured(Made(**world), folder, sink=sink)
    write_study(found, folder)
    return found


def verdict_of_accuracy(text: str) -> dict:
    return next(each for each in json.loads(text)["claims"] if each["key"] == "accuracy")


@pytest.mark.parametrize(("retention", "verdict"), [(1.0, "holds"), (0.8, "fails")])
def test_a_study_decides_the_claim_about_accuracy(tmp_path, capsys, retention, verdict, claims_without_measuring):
    kept(tmp_path, retention={"efficient": retention})
    main(["claims", "--no-time", "--accuracy", str(tmp_path), "--json", "-"])
    told = verdict_of_accuracy(capsys.readouterr().out)
    assert told["verdict"] == verdict and "early accuracy on small models, procedural:0" in told["measured"]


def test_without_a_study_the_claim_is_not_decided(capsys, claims_without_measuring):
    main(["claims", "--no-time", "--json", "-"])
    assert verdict_of_accuracy(capsys.readouterr().out)["verdict"] == "cannot be decided here"


def test_a_study_that_was_changed_decides_nothing(tmp_path, capsys):
    kept(tmp_path)
    page = tmp_path / "retention.csv"
    page.write_text(page.read_text().replace("keeps", "loses", 1))
    assert main(["claims", "--accuracy", str(tmp_path)]) == EXIT_INVALID
    assert "is not what was measured" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "said"), [
    (("--architecture", "efficient-fused"), "is of a study that trained original, efficient, and not efficient-fused"),
])
def test_a_study_of_other_architectures_is_refused(tmp_path, capsys, typed, said):
    kept(tmp_path)
    assert main(["claims", "--accuracy", str(tmp_path), *typed]) == EXIT_USAGE
    assert said in capsys.readouterr().err


@pytest.fixture
def claims_without_measuring(monkeypatch):
    """`claims` with nothing measured: every other claim is then undecided."""
    from humar_bench.cli import claims
    from humar_bench.studies.claims.evidence import CANDIDATE, ORIGINAL, Evidence

    sides = {CANDIDATE: "efficient", ORIGINAL: "original"}
    monkeypatch.setattr(claims, "gather", lambda *args, **more: Evidence(sides, {}, {}, timed=False))


# For real -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_small_study_is_trained_stopped_and_gone_on_with(tmp_path):
    folder = tmp_path / "study"
    typed = [*PROGRAM, "accuracy", *TINY, "--taught", "efficient"]
    first = subprocess.run([*typed, "--time-limit", "25", "-o", str(folder)], capture_output=True, text=True)
    assert first.returncode in (4, 5), first.stderr
    done = subprocess.run([*typed, "--resume", str(folder)], capture_output=True, text=True)
    assert done.returncode == EXIT_INVALID, done.stderr  # 64 pictures teach nothing, and it says so
    assert "early accuracy on small models" in done.stdout and "scored 0 or no number" in done.stdout
    run = load(folder)
    assert all(record.ok for record in run) and len({record.key for record in run}) == len(run)
    roles = Counter(record.workload["role"] for record in run)  # the grid of rates grows where nothing was learned
    assert roles["floor"] == 1 and roles["run"] == 3 * 2 + 2 and roles["rate"] >= 3 * 2
    assert len({record.measured["front_end"] for record in run if record.workload["role"] != "floor"}) == 1
    assert verify(folder).proved and len(list((folder / "runs").glob("*/checkpoint-*.safetensors"))) == 2  # of those that taught
    assert not (folder / "rendered").exists() and list((folder / "runs").glob("*/evaluations/*.npz"))
