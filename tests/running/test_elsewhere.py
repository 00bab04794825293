"""A run is of one machine: what is counted says nothing about a device, and what is timed on one is no other machine."""

from __future__ import annotations

import pytest

from humar_bench.args import ModelArgs, RunArgs, Workload
from humar_bench.records.record import Run
from humar_bench.running.bench import OTHER_MACHINE, Job, _Bench
from humar_bench.running.children import Outcome
from humar_bench.subjects.registry import parse_architecture

COUNTED = {"device": "cpu", "device_label": "Some CPU", "threads": 16, "cpu": "Some CPU", "python": "3.12.3"}
TIMED = {**COUNTED, "device": "cuda:0", "device_label": "Some GPU", "driver": "580"}


@pytest.mark.parametrize(("measure", "environment", "stands"), [
    ("fps", TIMED, True), ("memory", TIMED, True), ("component_time", TIMED, True), ("fps", {**TIMED, "python": "3.11.7"}, False),
    ("params", {**COUNTED, "device_label": "Another CPU"}, False),
])
def test_a_device_beside_what_was_counted_is_this_machine_and_another_python_is_not(measure, environment, stands):
    architecture = parse_architecture("original")
    bench = _Bench(
        architectures=(architecture,), args=ModelArgs(), workload=Workload("tiny", 1, 5, ((9, 7), (5, 4), (3, 2), (2, 1)), False),
        run=RunArgs(), sink=None, progress=lambda event: None, done=Run(()), counters=(), command="", limit_bytes=None, reference="",
        certificate=None,
    )
    bench.made = [bench._record(Job("params", (architecture,)), architecture, {"measured": {}}, COUNTED)]
    said = {"status": "failed", "kind": "error", "reason": "it said why.", "built": {}, "measured": None}
    reply = {"environment": environment, "results": {"original": said}}
    results, found = bench._heard(Job(measure, (architecture,)), Outcome(reply))
    assert found == (environment if stands else {})
    assert results["original"]["reason"] == (said["reason"] if stands else OTHER_MACHINE)
