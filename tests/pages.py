"""The parts of README.md and docs/ that the tool writes: figures from `results/`, tables from the options and the command line.

A part stands between `<!-- name: words -->` and `<!-- /name -->`; `as_it_should_be` writes all of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import typer.main

import humar_bench.cli  # noqa: F401 - its modules register the commands
from humar_bench import options
from humar_bench.args import BEST_FORMS, WORKLOADS, ModelArgs, RunArgs
from humar_bench.cli.app import app
from humar_bench.cli.typer_options import flags_of
from humar_bench.records.record import load
from humar_bench.report import make_console, print_comparison, print_table
from humar_bench.report.comparison import Comparison, compare
from humar_bench.running.bench import benchmark
from humar_bench.skeleton.pose_transformer import COMPONENTS
from humar_bench.subjects.registry import use_of
from humar_bench.table import SUMMARY

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WIDTH = 100
_PART = re.compile(r"(<!-- (\w+)(?:: ([^>]*?))? -->\n)(.*?)(<!-- /\2 -->)", re.DOTALL)


def as_it_should_be(text: str) -> str:
    """A page with all its parts written anew."""
    return _PART.sub(lambda found: f"{found[1]}{_WRITERS[found[2]](*(found[3] or '').split())}{found[5]}", text)


def parts_of(text: str) -> list[str]:
    return [found[1] for found in _PART.findall(text)]


def commands() -> dict[str, object]:
    """'report' or 'data show' -> the command."""
    group = typer.main.get_command(app)
    found = {}
    for name, each in group.commands.items():
        inside = getattr(each, "commands", None)
        found |= {f"{name} {one}": other for one, other in inside.items()} if inside else {name: each}
    return found


# From results ---------------------------------------------------------------------------------------------------------------------


def _summary(report: str) -> str:
    """The summary table of a report.md, its references, and the lines of its conditions that no figure may stand without."""
    text = (ROOT / report).read_text(encoding="utf-8")
    table = re.search(r"## Summary\n\n((?:\|.*\n)+)", text)[1]
    said = [line.removeprefix("- ") for line in text.splitlines() if re.match(r"(- )?(Workload|Measured on|Scaled down)", line)]
    return "\n".join(["", table.rstrip(), "", f"{_references(table)} {' '.join(said)} Made from `{report}`.", ""])


def _references(table: str) -> str:
    [(published, best)] = BEST_FORMS.items()
    if f"against {best}" in table:
        return f"Ratios are against `{published}`, as published, and against `{best}`, the same outputs in their best form."
    return f"Ratios are against `{published}`, as published; `{best}`, the same outputs in their best form, was not measured in this run."


def _comparison(report: str) -> Comparison:
    return compare(load((ROOT / report).parent).latest())


def _table(report: str, *names: str) -> str:
    """Tables of a run as a terminal shows them, without the notes below."""
    screen = io.StringIO()
    for table in _comparison(report).tables:
        if table.name in names:
            print_table(dataclasses.replace(table, columns=_undirected(table.columns), feet=()), make_console(screen, width=WIDTH))
    return _code(screen.getvalue())


def _undirected(columns: tuple) -> tuple:
    return tuple(dataclasses.replace(column, better="") for column in columns)


def _screen(report: str) -> str:
    """The last screen of a report."""
    screen = io.StringIO()
    folder = str(Path(report).parent)
    print_comparison(_comparison(report), make_console(screen, width=80), details=False, folder=folder)
    return _code(screen.getvalue())


@functools.cache
def _counts(page: str) -> str:
    """What is counted exactly of the pair of models on a page: it is measured, and no machine changes it."""
    code = re.search(r"```python\n# (\w+\.py)\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    screen = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path(code[1]).write_text(code[2], encoding="utf-8")
        pair = {name: f"{code[1]}:{name}" for name in ("small", "wide")}
        run = benchmark(pair, measures=["params", "flops"], inputs=f"{code[1]}:images")
    [summary] = [table for table in compare(run).tables if table.name == SUMMARY]
    print_table(summary, make_console(screen, width=WIDTH))
    return _code(screen.getvalue())


def _code(text: str) -> str:
    lines = [line.rstrip() for line in text.strip("\n").splitlines()]
    return "\n".join(["", "```text", *lines, "```", ""])


def _took(path: str) -> str:
    """What the README's commands took on a clean clone."""
    if not (ROOT / path).exists():
        return "\nHow long they take is not measured yet.\n"
    measured = json.loads((ROOT / path).read_text(encoding="utf-8"))
    said = [f"`{each['command']}` took {_duration(each['seconds'])}" for each in measured["commands"]]
    return f"\nOn {measured['machine']}, on a clean clone, with the install: {', '.join(said)}. Made from `{path}`.\n"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes"


# From the options -----------------------------------------------------------------------------------------------------------------


def _lines(head: tuple[str, ...], rows: list[tuple]) -> str:
    cells = [head, ("---",) * len(head), *rows]
    return "\n".join(["", *(f"| {' | '.join(_cell(str(each)) for each in row)} |" for row in cells), ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _arguments() -> str:
    rows = [
        (f"`{each.name}`", each.default, each.metadata["help"], use_of(each.name, "original"), use_of(each.name, "efficient"))
        for each in dataclasses.fields(ModelArgs)
    ]
    return _lines(("argument", "default", "what it is", "the original", "the replacement"), rows)


def _workloads() -> str:
    rows = []
    for name, make in WORKLOADS.items():
        work = make()
        what = " ".join(make.__doc__.split())
        rows.append((f"`{name}`", what, work.batch, work.num_queries, work.sizes_text.replace(",", ", ")))
    return _lines(("workload", "what it is", "batch", "queries", "feature maps"), rows)


def _options(owner: str) -> str:
    owners = {"Selection": options.Selection, "Call": options.Call, "RunArgs": RunArgs, "Output": options.Output}
    fields = dataclasses.fields(owners[owner])
    rows = [
        (", ".join(f"`{flag}`" for flag in flags_of(each)), "" if each.default in (None, (), False) else _shown(each.default),
         each.metadata["help"])
        for each in fields
    ]
    return _lines(("option", "default", "what it does"), rows)


def _shown(default: object) -> str:
    return ", ".join(default) if isinstance(default, tuple) else "yes" if default is True else str(default)


def _commands() -> str:
    rows = [(f"`humar-bench {name}`", each.help.strip().split("\n\n")[0]) for name, each in commands().items()]
    return _lines(("command", "what it does"), rows)


def _components() -> str:
    return _lines(("module", "component"), [(f"`{path}`", name) for path, name in COMPONENTS if path])


_WRITERS: dict[str, Callable[..., str]] = {
    "summary": _summary, "table": _table, "screen": _screen, "took": _took, "arguments": _arguments, "workloads": _workloads,
    "counts": _counts, "options": _options, "commands": _commands, "components": _components,
}
