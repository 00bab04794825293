"""What the README's commands take: measured in a clone of the commit, not of the working tree."""

from __future__ import annotations

import json
import subprocess

import pytest

from benchmarks import commands
from tests import pages


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "said").write_text("committed\n")
    for step in ("init -q", "add said", "-c user.name=x -c user.email=x@x commit -q -m one"):
        subprocess.run(["git", *step.split()], cwd=folder, check=True)
    (folder / "said").write_text("not committed\n")
    return folder


def test_commands_run_in_a_clone_of_the_commit_and_their_lines_are_stamped(repository):
    said = []
    measured = commands.measure(["cat said", "echo two; echo three >&2"], repository, said.append)
    assert [line.partition("] ")[2] or line for line in said] == ["$ cat said", "committed", "$ echo two; echo three >&2", "two", "three"]
    assert [each["command"] for each in measured["commands"]] == ["cat said", "echo two; echo three >&2"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, check=True, capture_output=True, text=True).stdout.strip()
    assert measured["commit"] == head and measured["machine"]


def test_seconds_are_from_the_commands_own_start(tmp_path):
    clock, said = iter([100.0, 101.5, 103.0]), []
    assert commands.run("echo a", tmp_path, said.append, now=lambda: next(clock)) == 3.0 and said == ["[    1.5 s] a"]


def test_a_command_that_fails_ends_it_and_writes_nothing(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "COMMANDS", ("exit 3",))
    monkeypatch.setattr(commands, "ROOT", repository)
    with pytest.raises(SystemExit, match="exit 3 ended with exit code 3; nothing was written"):
        commands.main(["--out", str(tmp_path / "times.json")])
    assert not (tmp_path / "times.json").exists()


def test_the_readme_says_what_was_measured(repository, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, "COMMANDS", ("true",))
    monkeypatch.setattr(commands, "ROOT", repository)
    assert commands.main(["--out", str(tmp_path / "times.json")]) == 0
    assert "make readme" in capsys.readouterr().out
    measured = json.loads((tmp_path / "times.json").read_text())
    measured |= {"commands": [{"command": "make bench", "seconds": 99.6}, {"command": "make test", "seconds": 432.0}]}
    (tmp_path / "times.json").write_text(json.dumps(measured))
    said = pages.as_it_should_be(f"<!-- took: {tmp_path / 'times.json'} -->\nold\n<!-- /took -->")
    assert "`make bench` took 100 s, `make test` took 7.2 minutes." in said and measured["machine"] in said and "old" not in said
