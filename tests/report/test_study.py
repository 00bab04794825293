"""A study's folder: what was written can be made again from it, and a change of it is found."""

from __future__ import annotations

import json
import shutil

import pytest

from humar_bench import cli
from humar_bench.errors import EXIT_DONE, EXIT_INVALID, InvalidMeasurement, UsageError
from humar_bench.records.record import load
from humar_bench.report.study import STUDY_NAME, read_study, study_texts
from humar_bench.studies import MAKERS
from tests.faults.harness import without_children

SMALL = ["--device", "cpu", "--no-time", *(part for each in (
    "hidden_dim=16", "nheads=2", "dim_feedforward=32", "dec_layers=2", "enc_layers=1", "efficient_nheads=2", "efficient_enc_layers=2"
) for part in ("--set", each))]
COMMANDS = {
    "scaling": ["--from", "60", "--to", "240", "--points", "3", "--workload", "tiny"],
    "ablate": ["--workload", "tiny"],
    "claims": ["--feature-sizes", "20x20,10x10,5x5"],
}


@pytest.fixture(scope="module", params=["scaling", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ablate", "claims"))])
def written(request, tmp_path_factory):
    """A study's folder, written by its command."""
    folder = tmp_path_factory.mktemp("studies") / request.param
    with without_children():
        code = cli.main([request.param, *COMMANDS[request.param], *SMALL, "--quiet", "-o", str(folder)])
    assert code in (0, 3)  # 3: such a small model does not keep every claim
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / written.name)


def test_what_a_study_wrote_is_made_again_from_its_records(folder):
    texts = study_texts(read_study(folder, load(folder), MAKERS))
    assert len(texts) >= 2
    assert {name: (folder / name).read_text(encoding="utf-8") for name in texts} == texts


def test_verify_proves_a_studys_folder_and_finds_a_changed_cell(folder, capsys):
    assert cli.main(["verify", str(folder)]) == EXIT_DONE
    assert "proved: " in capsys.readouterr().out
    page = folder / f"{folder.name}.md"
    page.write_text(page.read_text(encoding="utf-8").replace("efficient", "sufficient", 1), encoding="utf-8")
    assert cli.main(["verify", str(folder)]) == EXIT_INVALID
    assert page.name in capsys.readouterr().out


def test_verify_finds_a_settings_file_that_was_changed_and_a_record_that_is_gone(folder, capsys):
    path = folder / STUDY_NAME
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"notes": []', '"notes": ["all is well"]'), encoding="utf-8")
    with pytest.raises(InvalidMeasurement, match="its SHA-256 is not the one it carries"):
        read_study(folder, load(folder), MAKERS)
    assert cli.main(["verify", str(folder)]) == EXIT_INVALID
    path.write_text(text, encoding="utf-8")
    records = folder / "records.jsonl"
    records.write_text("".join(records.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8")
    with pytest.raises(InvalidMeasurement, match="which study.json names, is missing"):
        read_study(folder, load(folder), MAKERS)
    assert cli.main(["verify", str(folder)]) == EXIT_INVALID
    assert "study.json names" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"format": 1, "study": "nothing"}), json.dumps({"format": 99})])
def test_a_settings_file_of_nothing_known_is_refused_in_a_sentence(tmp_path, content):
    (tmp_path / STUDY_NAME).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="study.json"):
        read_study(tmp_path, [], MAKERS)


def test_every_study_has_a_folder_tested_here():
    assert set(COMMANDS) <= set(MAKERS)
