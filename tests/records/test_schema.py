"""Every field of a record has a type and bounds: what is measured keeps to them, and nothing else does."""

from __future__ import annotations

import copy
import dataclasses
import typing
from pathlib import Path

import pytest

from humar_bench.records import fields, schema
from humar_bench.records.audit import faults, impossible
from humar_bench.records.record import Record, load
from tests.golden.records import failed, made_up_run

RESULTS = Path(__file__).resolve().parents[2] / "results"


def unknown(value, kind: type) -> list[str]:
    """Names in an object, and in those inside it, that its class does not have."""
    if not isinstance(value, dict):
        return []
    hints = typing.get_type_hints(kind)
    found = [name for name in value if name not in hints]
    for name, hint in hints.items():
        for inside in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(inside):
                each = value.get(name)
                held = each if isinstance(each, list) else list(each.values()) if hint is not inside and isinstance(each, dict) else [each]
                found += [f"{name}.{one}" for part in held for one in unknown(part, inside)]
    return found


@pytest.mark.parametrize("folder", sorted(path.parent for path in RESULTS.rglob("records.jsonl")), ids=lambda path: path.name)
def test_what_was_measured_keeps_to_the_schema_and_the_schema_knows_all_of_it(folder):
    for record in load(folder):
        assert faults(record) == []
        assert unknown(record.environment, schema.Environment) == []
        assert record.measured is None or set(unknown(record.measured, schema.MEASURED[record.measure])) <= {"synchronisations"}


def test_made_up_and_failed_records_keep_to_it():
    for record in (*made_up_run("original", "efficient", "theirs"), failed("fps", "theirs"), failed("params", "theirs", environment={})):
        assert faults(record) == []


def leaves(value, place=()):
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from leaves(each, (*place, key))
    elif isinstance(value, list) and value:
        yield from leaves(value[0], (*place, 0))
    else:
        yield place


ANYTHING = ("built", "conditions", "changed", "inside", "tf32", "synchronisations", "commit", "plan")


@pytest.mark.parametrize("record", list(made_up_run("original", processes=1)), ids=lambda record: record.measure)
def test_nonsense_is_found_in_every_field(record):
    values = {name: getattr(record, name) for name in ("measured", "workload", "run", "asked", "environment")}
    places = [place for place in leaves(values) if not set(place) & set(ANYTHING)]
    assert len(places) > 40
    for place in places:
        spoiled = copy.deepcopy(values)
        inside = spoiled
        for key in place[:-1]:
            inside = inside[key]
        empty = inside[place[-1]] in ({}, [])
        inside[place[-1]] = {"nonsense": []} if not empty else "nonsense"
        found = impossible(dataclasses.replace(record, **spoiled, id=""))
        assert found, place
        assert all(len(each) < 200 for each in found)


@pytest.mark.parametrize(("change", "said"), [
    ({"total": -1}, "total is -1; it must be a whole number of at least 0"), ({"total": 1.0}, "total is 1.0; it must be a whole"),
    ({"total": True}, "total is True"), ({"total": "1"}, "total is '1'"), ({"total": None}, "total is no number"),
    ({"total": 10**31}, "total is 10000000000000000000000000000000; it must be"), ({"components": []}, "its components is []"),
    ({"components": {"a": -1}}, "components.a is -1"), ({"modules": [{"own": 1}]}, "modules[0] lacks path"),
    ({"modules": ["x"]}, "its modules[0] is 'x'"), ({"shared": [[1]]}, "its shared[0][0] is 1"),
    ({"never_read": "x"}, "its never_read is 'x'"),
])
def test_each_kind_of_nonsense_is_named(change, said):
    measured = {"total": 1, "components": {}, **change}
    assert [each for each in fields.faults(measured, schema.Params) if each.startswith(said)]


def test_what_may_be_absent_or_null_and_what_may_not():
    assert fields.faults({}, schema.Params) == ["it lacks total", "it lacks components"]
    assert fields.faults({}, schema.Params, whole=False) == []
    assert fields.faults({"total": 1, "components": {}, "never_read": None, "storage_bytes": None, "later": {}}, schema.Params) == []
    assert fields.faults({"total": 1, "components": {}, "modules": None}, schema.Params) == ["its modules is None"]


def test_times_are_counted_and_not_listed():
    times = {"wall_s": [1.0, 0.0, None, "x", -1.0, 1e10], "batch": 1, "cpu_s": [0, 1.0]}
    assert fields.faults(times, schema.Fps) == ["wall_s holds 5 of 6 times that are no positive number"]


def test_a_record_of_a_machine_alone_needs_no_work():
    ceilings = [each for path in RESULTS.rglob("records.jsonl") for each in load(path) if each.measure == "ceilings"]
    pace = {"fastest_s": 1e-3, "median_s": 2e-3, "blocks": 5, "calls_per_block": 1, "by": "wall time"}
    made = Record(
        "ceilings", "this machine", "", False, {}, {}, {}, measured={
            "matmul": [{**pace, "precision": "float32", "size": 8, "flops_per_s": 1.0, "median_flops_per_s": 1.0}], "operator": pace,
            "copy": {**pace, "buffer_bytes": 8, "bytes_per_s": 1.0, "median_bytes_per_s": 1.0}, "launch": None,
        },
    )
    assert [faults(each) for each in (*ceilings, made)] == [[]] * (len(ceilings) + 1)
