"""Every command that reads or writes a file says in one sentence what is wrong with it: no traceback, no waiting."""

from __future__ import annotations

import json
import os

import pytest

from humar_bench import cli
from humar_bench.errors import EXIT_INVALID, EXIT_USAGE
from humar_bench.records.record import RECORDS_NAME, Run
from humar_bench.report import write_report
from tests.golden.records import params

RECORDS = [params("original"), params("efficient")]


def write_run(folder, records=RECORDS) -> None:
    folder.mkdir(exist_ok=True)
    (folder / RECORDS_NAME).write_text("".join(f"{each.to_json()}\n" for each in records))
    write_report(Run(tuple(records)), folder)


def broken(kind: str, line: str) -> bytes:
    record = json.loads(line)
    deep = "[" * 900 + "]" * 900
    return {
        "deep": line.replace('"built": {', f'"built": {{"a": {deep}, '), "brackets": "[" * 100_000,
        "digits": line.replace('"process": 0', f'"process": {"9" * 400}'), "surrogate": line.replace(record["spec"], "\\ud800"),
        "packages": json.dumps({**record, "environment": {"packages": ["torch"]}}),
        "long": '{"a": "' + "x" * 6_000_000 + '"}', "number": "7", "text": "not JSON", "bytes": "\xff", "infinite": "[1e999]",
        "measured": json.dumps({**record, "measured": {"total": {"a": []}, "components": 7}}),
        "built": json.dumps({**record, "built": None}),
    }[kind].encode("latin-1") + b"\n"


KINDS = ["deep", "brackets", "digits", "surrogate", "packages", "long", "number", "text", "bytes", "infinite", "measured", "built"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_that_is_none_is_one_sentence_for_every_command(tmp_path, capsys, kind):
    for name in ("good", "bad"):
        write_run(tmp_path / name)
    path = tmp_path / "bad" / RECORDS_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    made = broken(kind, lines[0].decode())
    assert made != lines[0] + b"\n"
    path.write_bytes(made + lines[1])
    assert cli.main(["verify", str(tmp_path / "bad")]) == EXIT_INVALID
    cli.main(["compare", str(tmp_path / "good"), str(tmp_path / "bad")])
    out, err = capsys.readouterr()
    assert err.count("\n") <= 2 and "Traceback" not in out + err and max(map(len, (out + err).splitlines())) < 2000


NO_FILES = ["pipe", "folder", "/dev/zero"]


def no_file(tmp_path, kind: str) -> str:
    if kind == "pipe":
        os.mkfifo(tmp_path / "pipe.json")
        return str(tmp_path / "pipe.json")
    if kind == "folder":
        (tmp_path / "folder.json").mkdir()
        return str(tmp_path / "folder.json")
    return kind


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("argv", [
    ["verify", "PATH"], ["compare", "PATH", "PATH"], ["params", "--args", "PATH"], ["params", "--resume", "PATH"],
    ["fps", "--certificate", "PATH", "--device", "cpu"], ["params", "--csv", "PATH"], ["params", "--json", "PATH"],
    ["params", "--markdown", "PATH"], ["params", "--records", "PATH"], ["params", "--arch", "PATH:build"],
])
def test_only_regular_files_are_read_and_no_pipe_is_waited_for(tmp_path, capsys, argv, kind):
    path = no_file(tmp_path, kind)
    if argv == ["params", "--records", "PATH"] and kind == "folder":
        pytest.skip("a folder's records are a file in it")
    (tmp_path / "link.json").symlink_to(path)
    for each in (path, str(tmp_path / "link.json")):
        assert cli.main([word.replace("PATH", each) for word in argv]) == EXIT_USAGE
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.parametrize("content", [
    "[" * 900 + "]" * 900, "[" * 100_000, '{"hidden_dim": ' + "9" * 400 + "}", '{"within_type": "\\ud800"}', '{"dropout": 1e999}',
])
def test_arguments_that_are_no_json_of_ours_are_one_sentence(tmp_path, capsys, content):
    (tmp_path / "args.json").write_text(content)
    assert cli.main(["params", "--args", str(tmp_path / "args.json")]) == EXIT_USAGE
    assert capsys.readouterr().err.count("\n") == 1
