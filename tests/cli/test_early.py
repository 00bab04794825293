"""What a report says before it is done."""

from __future__ import annotations

from humar_bench.cli.early import Early
from tests.golden.records import failed, flops, fps, memory, params


class Kept:
    def __init__(self):
        self.records = []

    def write(self, *records):
        self.records += records


def written(*records, sink=None):
    said = []
    early = Early(sink, ("original", "efficient"), "original", said.append)
    for each in records:
        early.write(*each)
    return said


def test_counts_are_said_once_every_architecture_has_one():
    first, second = params("original"), params("efficient")
    assert written([first]) == []
    [said] = written([first], [second])
    assert said.startswith("parameters: original ") and f"efficient {second.measured['total'] / 1e6:,.2f} M." in said
    more = written([flops("original"), flops("efficient")], [memory("original"), memory("efficient")])
    assert [line.partition(":")[0] for line in more] == ["matmul and conv, one forward", "peak above weights and inputs"]


def test_a_failed_count_is_said_too():
    assert "efficient failed" in written([params("original"), failed("params", "efficient")])[0]


def test_the_first_process_has_its_line_and_each_verdict_one_when_it_is_made():
    said = written(*[[fps(name, process) for name in ("original", "efficient")] for process in range(5)])
    assert said[0].startswith("speed, the first process: original ") and said[0].endswith("images/s.")
    assert len(said) == 2 and " efficient is " in said[1] and "than original." in said[1]


def test_records_go_on_to_their_file_first():
    sink = Kept()
    record = params("original")
    written([record], sink=sink)
    assert sink.records == [record]
