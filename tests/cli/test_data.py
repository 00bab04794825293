"""`humar-bench data`: show, export, check; what they print where and how they end."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest
from PIL import Image

from humar_bench import cli
from humar_bench.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE


def ends(capsys, *argv: str) -> tuple[int, str, str]:
    code = cli.main(["data", *argv])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_sheet_is_shown_of_every_level(capsys, tmp_path):
    path = tmp_path / "people.png"
    assert ends(capsys, "show", "-o", str(path), "--number", "2", "--size", "64x64") == (EXIT_DONE, f"{path}: 6 pictures.\n", "")
    with Image.open(path) as sheet:
        assert sheet.format == "PNG" and sheet.width > 6 * 256


def test_people_are_exported_checked_and_shown(capsys, tmp_path):
    folder = str(tmp_path / "people")
    code, out, err = ends(capsys, "export", folder, "--level", "0", "--train", "3", "--val", "2", "--size", "64x96", "--seed", "4")
    assert (code, out, err) == (EXIT_DONE, f"{folder}: 3 pictures to train on, 2 to evaluate on.\n", "")
    assert len(list((tmp_path / "people" / "images").iterdir())) == 5
    nothing = "humar-bench: 3 entries of train and 2 entries of val; 0 wrong, 0 left out, 0 odd.\n"
    assert ends(capsys, "check", folder) == (EXIT_DONE, "", nothing)
    sheet = str(tmp_path / "sheet.png")
    assert ends(capsys, "show", "--data", folder, "--split", "val", "--plain", "-o", sheet)[1] == f"{sheet}: 2 pictures.\n"


def test_a_folder_with_mistakes_ends_with_1_when_something_cannot_be_read(capsys, tmp_path):
    folder, path = str(tmp_path), tmp_path / "RefHuman_val.json"
    ends(capsys, "export", folder, "--train", "1", "--val", "2", "--size", "64x64")
    content = json.loads(path.read_bytes())
    del content["images"][1]["caption"]
    path.write_text(json.dumps(content))
    code, out, err = ends(capsys, "check", folder)
    assert (code, out) == (EXIT_DONE, "val 1: odd: it has no caption.\n") and err.endswith("0 wrong, 0 left out, 1 odd.\n")
    del content["annotations"][0]["bbox"]
    path.write_text(json.dumps(content))
    code, out, _ = ends(capsys, "check", folder)
    assert code == EXIT_FAILED and out.splitlines()[0] == "val 0: wrong: bbox is missing."


@pytest.mark.parametrize(("argv", "sentence"), [
    (("show", "--size", "64"), "the size '64' is not HEIGHTxWIDTH; write two positive whole numbers, such as 50x67."),
    (("show", "--size", "8x8"), "the size is 8x8; people need at least 32 pixels a side."),
    (("show", "--data", "procedural:9"), "the level is 9; choose one of 0, 1, 2."),
    (("show", "--split", "all"), "the split is 'all'; choose one of train, val, test."),
    (("show", "--number", "601"), "601 pictures were asked for; a sheet has at most 600 of each level."),
    (("show", "--size", "524288x524288"), "the size is 524288x524288; people are drawn with at most 4,096 pixels a side."),
    (("show", "--size", "٦٤x٦٤"), "the size '٦٤x٦٤' is not HEIGHTxWIDTH; write two positive whole numbers, such as 50x67."),
    (("show", "--data", "procedural:٠"), "the data is 'procedural:٠'; write procedural:LEVEL, such as procedural:1, or procedural:0-1 "
     "for level 0 first."),
    (("show", "--data", "procedural:" + "9" * 5000),
     f"the data is 'procedural:{'9' * 45}...; write procedural:LEVEL, such as procedural:1, or procedural:0-1 for level 0 first."),
    (("show", "-o", "-"), "--out is -, and standard output cannot take it; name a file (./- for one of that name)."),
    (("export", "people", "--train", "999999999999999"), "999999999999999 pictures were asked for; at most 10,000,000 are written."),
    (("check", "a\0b"), "a\\x00b holds neither RefHuman_train.json nor RefHuman_val.json; name the folder that holds them."),
    (("check", "x" * 5000), f"{'x' * 300} holds neither RefHuman_train.json nor RefHuman_val.json; name the folder that holds them."),
    (("show", "--number", "0"), "the pictures from 0 on, 0 of them, were asked for; the first is 0 and at least one is needed."),
    (("show", "-o", "no/folder/a.png"), "--out 'no/folder/a.png' cannot be written: No such file or directory; name a file that can."),
    (("export", "people", "--train", "0"), "the number of pictures is 0; it must be at least 1."),
    (("check", "no/folder"), "no/folder holds neither RefHuman_train.json nor RefHuman_val.json; name the folder that holds them."),
    (("check",), "Missing argument 'DIR'; see humar-bench data check --help."),
    (("look",), "No such command 'look'; see humar-bench data --help."),
])
def test_what_cannot_be_is_one_sentence(capsys, monkeypatch, tmp_path, argv, sentence):
    monkeypatch.chdir(tmp_path)
    assert ends(capsys, *argv) == (EXIT_USAGE, "", f"humar-bench: {sentence}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("typed", "missing", "package"), [
    (["show", "-o", "people.png"], "PIL", "pillow"), (["export", "people"], "PIL", "pillow"), (["check", "people"], "PIL", "pillow"),
    (["check", "people"], "faster_coco_eval", "faster-coco-eval"),
])
def test_a_missing_package_is_one_sentence_and_nothing_is_written(capsys, monkeypatch, tmp_path, typed, missing, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == missing else found(name, *more))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", *typed]) == EXIT_USAGE
    said = f'data {typed[0]} needs the package {package}, which is not installed; run pip install "humar-bench[train]".'
    assert capsys.readouterr().err == f"humar-bench: {said}\n" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("argv", [(), ("-h",), ("show", "-h"), ("export", "-h"), ("check", "--help")], ids=" ".join)
def test_help_fits_80_columns_and_has_an_example(capsys, monkeypatch, argv):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = ends(capsys, *argv)
    assert (code, err) == (EXIT_DONE, "") and "humar-bench data" in out.split("Example:")[1]
    assert max(map(len, out.splitlines())) <= 80 and "…" not in out


def test_nothing_about_data_needs_torch(tmp_path):
    code = "import sys; from humar_bench.cli import main; main(['data', 'show', '--number', '1', '--size', '32x32', '-o', 'a.png']); "
    code += "main(['data', 'export', 'people', '--train', '1', '--val', '1']); main(['data', 'check', 'people']); "
    code += "sys.exit(7 * ('torch' in sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True)
    assert told.returncode == 0, told.stderr


def test_a_folder_that_is_shown_is_not_written_over(capsys, tmp_path):
    folder = tmp_path / "people"
    ends(capsys, "export", str(folder), "--train", "1", "--val", "1", "--size", "64x64")
    for path in (folder / "RefHuman_train.json", folder / "images" / "train_000000.png"):
        before = path.read_bytes()
        (tmp_path / "link").symlink_to(path)
        for name in (path, tmp_path / "link"):
            code, _, err = ends(capsys, "show", "--data", str(folder), "-o", str(name))
            assert code == EXIT_USAGE and "is a file of --data" in err and path.read_bytes() == before
        (tmp_path / "link").unlink()
    assert ends(capsys, "show", "--data", str(folder), "-o", str(folder / "new.png"))[0] == EXIT_DONE


@pytest.mark.parametrize("there", ["images/train_000000.png", "images/mine.txt", "RefHuman_val.json"])
def test_people_are_exported_over_nothing(capsys, tmp_path, there):
    path = tmp_path / "people" / there
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    code, _, err = ends(capsys, "export", str(tmp_path / "people"), "--train", "1", "--val", "1", "--size", "64x64")
    assert code == EXIT_USAGE and "exists already; name another folder or remove it." in err and path.read_text() == "mine"


def test_people_are_exported_through_no_link(capsys, tmp_path):
    (tmp_path / "people").mkdir()
    (tmp_path / "people" / "RefHuman_train.json").symlink_to(tmp_path / "away")
    assert ends(capsys, "export", str(tmp_path / "people"), "--train", "1", "--val", "1", "--size", "64x64")[0] == EXIT_USAGE
    assert not (tmp_path / "away").exists()
