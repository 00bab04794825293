"""The README's numbers and tables are the tool's own: made from `results/` and from the options, and held against them here.

HUMAR_BENCH_OVERWRITE_GOLDEN=1 writes them anew.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from humar_bench.args import ModelArgs
from humar_bench.records.record import load
from humar_bench.saved.verify import verify
from humar_bench.studies.calibrate.calibrate import CERTIFICATE_NAME
from humar_bench.studies.calibrate.equal_pairs import NAME as PAIRS_NAME
from humar_bench.studies.calibrate.equal_pairs import read_rows
from tests.golden import OVERWRITE

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "results"
SUMMARY = re.compile(r"(<!-- summary: (\S+) -->\n).*?(<!-- /summary -->)", re.DOTALL)
ARGUMENTS = re.compile(r"(\| argument \| default \| what it is \|\n\| --- \| --- \| --- \|\n).*?(\n\nThe replacement keeps)", re.DOTALL)


def summary_of(report: Path) -> str:
    """The summary table of a report.md, and the line of its conditions that names the machine."""
    text = report.read_text(encoding="utf-8")
    table = re.search(r"## Summary\n\n((?:\|.*\n)+)", text)[1]
    conditions = [line.removeprefix("- ") for line in text.splitlines() if re.match(r"(- )?(Workload|Measured on|Scaled down)", line)]
    return "\n".join(["", table.rstrip(), "", f"{' '.join(conditions)} Made from `{report.relative_to(ROOT)}`.", ""])


def argument_rows() -> str:
    return "\n".join(f"| `{field.name}` | {field.default} | {field.metadata['help']} |" for field in dataclasses.fields(ModelArgs))


def as_it_should_be(text: str) -> str:
    text = SUMMARY.sub(lambda found: f"{found[1]}{summary_of(ROOT / found[2])}{found[3]}", text)
    return ARGUMENTS.sub(lambda found: f"{found[1]}{argument_rows()}{found[2]}", text)


def test_the_readme_shows_what_the_results_and_the_options_say():
    text = README.read_text(encoding="utf-8")
    assert SUMMARY.search(text) and ARGUMENTS.search(text)
    if os.environ.get(OVERWRITE):
        README.write_text(as_it_should_be(text), encoding="utf-8")
    assert README.read_text(encoding="utf-8") == as_it_should_be(text)


def test_a_changed_number_in_the_readme_would_be_found():
    text = README.read_text(encoding="utf-8")
    number = re.search(r"\d+\.\d+x fewer", text)[0]
    assert as_it_should_be(text.replace(number, "9.99x fewer", 1)) == as_it_should_be(text) != text.replace(number, "9.99x fewer", 1)


def folders() -> list[Path]:
    """Every folder with measurements; `make gpu` leaves one with a folder a step in it."""
    found = []
    for path in RESULTS.iterdir():
        if path.is_dir() and path.name != "local":
            steps = {each.parent for name in ("records.jsonl", CERTIFICATE_NAME) for each in path.glob(f"*/{name}")}
            found += steps if (path / "summary.json").exists() else [path]
    return sorted(found)


def results_page() -> str:
    """results/README.md: which command wrote each folder."""
    said = (
        "Every folder was written by the command beside it. `records.jsonl` holds a report's raw values, `raw.jsonl` a calibration's; "
        "`humar-bench verify FOLDER` proves the tables from them."
    )
    lines = ["# Results", "", said, ""]
    lines += ["| folder | measured on | command |", "| --- | --- | --- |"]
    for folder in folders():
        if (folder / PAIRS_NAME).exists():
            rows = read_rows(folder)
            lines.append(f"| {folder.name} | {rows[0]['machine']} | `python benchmarks/equal_pairs.py DIR --comparisons {len(rows)}` |")
            continue
        if (folder / CERTIFICATE_NAME).exists():
            document = json.loads((folder / CERTIFICATE_NAME).read_bytes())
            typed, told = [document["command"]], [document["environment"]]
        else:
            run = load(folder)
            typed, told = [record.command for record in run], [record.environment for record in run if record.environment]
        commands = " and ".join(f"`{each}`" for each in dict.fromkeys(typed))
        machines = sorted({f"{each.get('device_label') or each['cpu']}, torch {each['torch']}" for each in told})
        lines.append(f"| {folder.relative_to(RESULTS)} | {'; '.join(machines)} | {commands} |")
    return "\n".join([*lines, ""])


def test_the_results_folder_says_which_command_wrote_what():
    page = RESULTS / "README.md"
    if os.environ.get(OVERWRITE):
        page.write_text(results_page(), encoding="utf-8")
    assert page.read_text(encoding="utf-8") == results_page()


@pytest.mark.parametrize("command", ["params", "flops", "fps", "memory", "report", "list", "env"])
def test_the_readme_names_every_command(command):
    assert re.search(rf"^humar-bench {command}\b", README.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_command_of_the_tool_is_in_the_readme():
    shown = subprocess.run([sys.executable, "-m", "humar_bench", "--help"], capture_output=True, text=True, check=True).stdout
    commands = set(re.findall(r"^│ (\w+) ", shown, re.MULTILINE))
    assert commands >= {"params", "report"}
    text = README.read_text(encoding="utf-8")
    assert [name for name in sorted(commands) if not re.search(rf"humar-bench {name}\b", text)] == []


def test_the_readmes_python_runs():
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "27047316" in done.stdout


@pytest.mark.parametrize("folder", [str(folder.relative_to(RESULTS)) for folder in folders()])
def test_every_table_in_results_is_proved_by_what_was_measured(folder):
    proof = verify(RESULTS / folder)
    assert proof.proved, [difference.said for difference in proof.differences]
