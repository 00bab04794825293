"""The transformer's share of the whole model: shares and ratios by hand, and where they are shown."""

from __future__ import annotations

import dataclasses
import io

import pytest

from humar_bench.args import WholeWorkload
from humar_bench.judging.speeds import Speed, Speeds
from humar_bench.records.record import Run
from humar_bench.report.comparison import compare
from humar_bench.report.markdown import to_markdown
from humar_bench.report.share_table import read_shares
from humar_bench.report.terminal import make_console, print_comparison
from tests.golden.records import component_time, fps, made_up_run, params


def timed(**components: float) -> dict:
    """Three rounds whose median is the given one, wall time half of CPU time."""
    parts = {name.replace("__", ": "): {"cpu_s": [each, 9 * each, each], "wall_s": [each / 2] * 3} for name, each in components.items()}
    return {"clocks": ["wall_s", "cpu_s"], "components": parts}


ORIGINAL = timed(backbone=2.0, transformer=1.0, transformer__encoder=4.0, transformer__decoder=3.0)
EFFICIENT = timed(backbone=2.0, transformer__encoder=1.0, transformer__decoder=1.0)


def speeds(metric: str = "CPU time") -> Speeds:
    rows = {"original": Speed("original"), "efficient": Speed("efficient", ratio=2.4, ratio_low=2.3, ratio_high=2.6, metric=metric)}
    return Speeds(rows, "original")


def test_amdahl_by_hand():
    found = read_shares({"original": ORIGINAL, "efficient": EFFICIENT}, speeds(), "original")
    original, efficient = found.rows["original"], found.rows["efficient"]
    assert (original.forward_s, original.transformer_s, original.share, original.allowed) == (10, 8, 0.8, 5)
    assert (efficient.forward_s, efficient.transformer_s, efficient.share, efficient.allowed) == (4, 2, 0.5, 2)
    assert original.replaced is None and efficient.replaced == 10 / (10 - 8 + 2)
    assert found.clock == "cpu_s"
    assert found.lines == [
        "original: its transformer takes 80 % of a forward, so replacing it alone makes the whole model at most 5.00x faster.",
        "efficient: its transformer alone would make that 2.50x; measured 2.40x (2.30x to 2.60x).",
    ]
    [table] = found.tables
    assert table.cells()[1] == ["efficient", "4,000.00", "2,000.00", "50.0", "2.00x", "2.50x", "2.40x (2.30x to 2.60x)"]


def test_the_clock_is_the_one_that_decides_where_components_have_it():
    sides = {"original": ORIGINAL, "efficient": EFFICIENT}
    assert read_shares(sides, speeds("wall time"), "original").rows["original"].forward_s == 5
    assert read_shares(sides, speeds("device time"), "original").clock == "wall_s"
    assert read_shares(sides, Speeds({}), "original").clock == "wall_s"


@pytest.mark.parametrize("sides", [{}, {"original": None}, {"efficient": EFFICIENT, "original": None}])
def test_without_the_reference_nothing_is_said_about_it(sides):
    assert read_shares(sides, speeds(), "original").lines == []


def whole_run() -> Run:
    work = dataclasses.asdict(WholeWorkload())
    both = ("original", "efficient")
    records = [made(name, workload=work) for made in (params, component_time) for name in both]
    records += [fps(name, process, workload=work) for process in range(5) for name in both]
    renamed = []
    for record in records:
        if record.measure == "component_time":
            parts = record.measured["components"].items()
            parts = {"backbone" if name == "heads" else f"transformer: {name}": each for name, each in parts}
            entered = dict.fromkeys(parts, 1)
            record = dataclasses.replace(record, measured={**record.measured, "components": parts, "entered": entered}, id="")
        renamed.append(record)
    return Run(tuple(renamed))


def test_a_report_of_the_whole_model_ends_with_it_and_one_of_a_transformer_has_none():
    comparison, stream = compare(whole_run()), io.StringIO()
    print_comparison(comparison, make_console(stream), details=False)
    assert comparison.shares.lines and all(line in " ".join(stream.getvalue().split()) for line in comparison.shares.lines)
    assert "The transformer in the whole model" in to_markdown(comparison)
    assert not compare(made_up_run()).shares.rows
