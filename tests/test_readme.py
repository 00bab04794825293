"""README.md, docs/ and results/README.md say what the tool says: figures from `results/`, tables from the options, and every command works.

`make readme` writes them anew (HUMAR_BENCH_OVERWRITE_GOLDEN=1).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from humar_bench.args import BEST_FORMS
from humar_bench.records.record import load
from humar_bench.saved.verify import verify
from humar_bench.studies.calibrate.calibrate import CERTIFICATE_NAME
from humar_bench.studies.calibrate.equal_pairs import NAME as PAIRS_NAME
from humar_bench.studies.calibrate.equal_pairs import read_rows
from tests.golden import OVERWRITE
from tests.pages import PAGES, ROOT, as_it_should_be, commands, parts_of
from tests.test_doors import DOORS

README, CONTRIBUTING, RESULTS = ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "results"


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_shows_what_the_results_and_the_options_say(page):
    if os.environ.get(OVERWRITE):
        page.write_text(as_it_should_be(text_of(page)), encoding="utf-8")
    assert text_of(page) == as_it_should_be(text_of(page))


def test_the_parts_that_the_tool_writes_are_there():
    written = [name for page in PAGES for name in parts_of(text_of(page))]
    assert sorted(written) == [
        "arguments", "commands", "components", "counts", "options", "options", "options", "options", "screen", "summary", "table", "table",
        "took", "workloads",
    ]


def test_a_changed_number_in_the_readme_would_be_found():
    text = text_of(README)
    number = re.search(r"\d+\.\d+x fewer", text)[0]
    assert as_it_should_be(text.replace(number, "9.99x fewer", 1)) == as_it_should_be(text) != text.replace(number, "9.99x fewer", 1)


def test_the_headline_names_both_references():
    headline = text_of(README).partition("<!-- /summary -->")[0]
    for published, best in BEST_FORMS.items():
        assert f"`{published}`" in headline and f"`{best}`" in headline


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


def typed_commands() -> list[tuple[str, str]]:
    """(page, line) of every humar-bench command in a code block."""
    found = []
    for page in (*PAGES, CONTRIBUTING):
        inside = False
        for line in map(str.strip, text_of(page).splitlines()):
            if line.startswith("```"):
                inside = not inside
            elif inside and line.startswith("humar-bench "):
                found.append((page.name, line))
    return found


@pytest.mark.parametrize(("page", "line"), typed_commands())
def test_every_command_on_a_page_is_one_with_options_it_has(page, line):
    words = shlex.split(line, comments=True)[1:]
    known = commands()
    name = words[0] if words[0] in known or words[0].startswith("-") else " ".join(words[:2])
    options = {flag for each in ([known[name]] if name in known else []) for param in each.params
               for flag in (*param.opts, *param.secondary_opts)}
    assert name in known or name in ("--install-completion", "--help"), f"{page}: {line}"
    assert {word for word in words[1:] if word.startswith("-") and word != "-"} <= options, f"{page}: {line}"


def test_every_command_of_the_tool_is_shown_and_the_measuring_ones_in_the_readme():
    shown = text_of(ROOT / "docs" / "commands.md")
    assert [name for name in commands() if f"`humar-bench {name}`" not in shown] == []
    assert {"params", "fps", "report", "verify"} <= {line.split()[1] for page, line in typed_commands() if page == "README.md"}


def test_every_page_of_docs_is_linked_from_the_readme_and_every_link_leads_somewhere():
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in text_of(README)] == []
    for page in (*PAGES, CONTRIBUTING, RESULTS / "README.md"):
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text_of(page)) if "://" not in link]
        assert [link for link in links if link and not (page.parent / link).exists()] == [], page.name


def test_the_readme_lists_every_room_in_the_order_of_the_doors():
    table = text_of(README).partition("## Where things are")[2].partition("[CONTRIBUTING")[0]
    rooms = re.findall(r"^\| `(?:humar_bench/)?(\w+)(?:/|\.py)", table, re.MULTILINE)
    assert rooms == ["args", *list(DOORS)[1:], "benchmarks", "results"]  # the first row is the vocabulary


def test_the_python_on_its_page_runs():
    code = re.search(r"```python\n(.*?)```", text_of(ROOT / "docs" / "python.md"), re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "27047316" in done.stdout


@pytest.mark.parametrize("folder", [str(folder.relative_to(RESULTS)) for folder in folders()])
def test_every_table_in_results_is_proved_by_what_was_measured(folder):
    proof = verify(RESULTS / folder)
    assert proof.proved, [difference.said for difference in proof.differences]
