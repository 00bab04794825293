"""What of a record cannot be used becomes a failed result, or a sentence that names the record."""

from __future__ import annotations

import pytest

from humar_bench.errors import InvalidMeasurement
from humar_bench.records.audit import audited, readable
from tests.golden.records import made_up, made_up_run, params


def test_a_result_that_contradicts_itself_becomes_a_failed_one():
    sound = {"status": "ok", "kind": "", "reason": "", "built": {"a": 1}, "measured": params("original").measured}
    assert audited("x", "params", sound, {}, {}) == sound
    lost = {"status": "failed", "kind": "crash", "reason": "no.", "built": {}, "measured": None}
    assert audited("x", "params", lost, {}, {}) == lost
    wrong = audited("x", "params", {**sound, "measured": {**sound["measured"], "listed": 1}}, {}, {})
    assert (wrong["status"], wrong["kind"], wrong["measured"]) == ("failed", "error", None)
    assert wrong["reason"].startswith("the params of x contradict themselves: its names list 1 parameters")
    for measured, said in (({}, "it lacks total; it lacks components"), ({**sound["measured"], "total": "x"}, "total is 'x'; it must be")):
        wrong = audited("x", "params", {**sound, "measured": measured}, {}, {})
        assert wrong["measured"] is None and wrong["reason"].startswith(f"the params of x cannot be: {said}")


def test_work_that_fails_on_sound_records_is_an_error_of_ours_and_stays_one():
    with pytest.raises(KeyError), readable(made_up_run()):
        raise KeyError("ours")
    with pytest.raises(InvalidMeasurement, match="record of original, process 0, cannot be used: it lacks total; it lacks components; hu"):
        with readable([made_up("params", "original", {})]):
            raise KeyError("total")
