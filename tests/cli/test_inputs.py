"""`--inputs`: any models by any call from the command line, their report proved, gone on with and compared; or one sentence."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from humar_bench import cli
from humar_bench.args import FreeWorkload, Workload
from humar_bench.errors import UsageError
from humar_bench.options import Call, Selection, Whole
from humar_bench.records.record import load
from humar_bench.report.comparison import compare
from humar_bench.running.plan import read_components, resolve
from humar_bench.saved.verify import verify
from tests.data import any_models
from tests.faults.harness import without_children

FILE = Path(any_models.__file__)
QUICK = ("--processes", "1", "--budget", "0.2", "--min-runs", "1", "--max-runs", "2", "--threads", "1", "--device", "cpu", "--no-control")
PAIR = ("--arch", "small=nets.py:small", "--arch", "wide=nets.py:wide")
INPUTS = ("--inputs", "nets.py:images")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(FILE, tmp_path / "nets.py")
    return tmp_path


def ends(capsys, *argv: str) -> tuple[int, str, str]:
    code = cli.main([str(each) for each in argv])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


# What is typed ----------------------------------------------------------------------------------------------------------------------


def work(call: Call | None = None, **typed):
    return resolve(Selection(arch=("nets.py:small",), **typed), call=call or Call(inputs="nets.py:images")).workload


def test_what_is_typed_is_what_is_measured():
    assert work() == FreeWorkload.around(Workload.uniphd(), "nets.py:images") and work().name == "inputs"
    sized = work(batch=5, workload="tiny")
    assert (sized.name, sized.batch, sized.feature_sizes) == ("tiny", 5, Workload.tiny().feature_sizes)
    Path("parts.json").write_text('{"encoder": ["stem", "blocks"], "rest": "head"}')
    parts = work(Call(inputs="nets.py:images", components="parts.json")).components
    assert parts == (("encoder", ("stem", "blocks")), ("rest", ("head",)))


@pytest.mark.parametrize(("call", "more", "says"), [
    ({"inputs": "images"}, {}, "--inputs is 'images'; name the function that makes them, as in file.py:function or package.module:"),
    ({"inputs": ""}, {}, "--inputs is ''; name the function"),
    ({"inputs": "a/nets.txt:images"}, {}, "a/nets.txt is not a Python file"),
    ({"inputs": "gone.py:images"}, {}, "the file gone.py does not exist"),
    ({"inputs": "nets.py:pictures"}, {}, "nets.py has no 'pictures'; it has small, wide, .*; name a function that takes the batch size"),
    ({"inputs": "nets.py:later"}, {}, "later in nets.py is async"),
    ({"inputs": "no_such_package.x:images"}, {}, "there is no module 'no_such_package.x' here"),
    ({"inputs": "nets.py:images"}, {"whole": Whole(whole=True)}, "--inputs is nets.py:images and --whole makes inputs of its own"),
    ({"inputs": "nets.py:images", "components": "gone.json"}, {}, "--components 'gone.json' cannot be read: No such file"),
])
def test_what_cannot_be_is_one_sentence_before_anything_runs(call, more, says):
    with pytest.raises(UsageError, match=says):
        resolve(Selection(arch=("nets.py:small",)), call=Call(**call), **more)


@pytest.mark.parametrize(("text", "says"), [
    ("{", "is not JSON"), ("[]", "must hold names"), ("{}", "must hold names"), ('{"a": []}', "must hold names"),
    ('{"a": 3}', "must hold names"), ('{"a": ["x"], "a": ["y"]}', "gives the key 'a' twice"),
])
def test_a_components_file_that_is_none_is_one_sentence(text, says):
    Path("parts.json").write_text(text)
    with pytest.raises(UsageError, match=says):
        read_components("parts.json")


def test_components_ask_for_inputs():
    with pytest.raises(UsageError, match="--components is parts.json and only parts of models called by --inputs are named so; add"):
        Call(components="parts.json")


def test_nothing_is_written_over_the_files_that_say_what_is_measured(capsys):
    before = Path("nets.py").read_bytes()
    code, _, err = ends(capsys, "params", "--arch", "x=nets.py:small", *INPUTS, "--csv", "nets.py")
    assert code == 2 and "nets.py" in err and Path("nets.py").read_bytes() == before


# Counts -----------------------------------------------------------------------------------------------------------------------------


def counts(capsys, command: str, *more: str) -> list[dict[str, str]]:
    code, out, err = ends(capsys, command, *PAIR, *INPUTS, *more, "--csv", "-")
    assert code == 0, err
    assert "making them runs the code of nets.py." in err and "small is not part of humar-bench" in err
    return list(csv.DictReader(io.StringIO(out)))


def test_parameters_and_flops_by_hand(in_process, capsys):
    Path("parts.json").write_text(json.dumps({"encoder": ["stem", "blocks"]}))
    rows = {row["component"]: (int(row["small"]), int(row["wide"])) for row in counts(capsys, "params", "--components", "parts.json")}
    assert rows == {"encoder": (28 * 4 + 296, 28 * 8 + 1168), "head": (90, 170), "total": (498, 1562)}
    total = next(row for row in counts(capsys, "flops", "--batch", "3") if row["part"] == "total")
    assert int(total["small"]) == 3 * (2 * 64 * 108 + 2 * 16 * 288 + 160)
    assert int(total["wide"]) == 3 * (2 * 64 * 216 + 2 * 16 * 1152 + 320)


def test_a_builder_and_a_function_may_ask_for_args_and_workload(in_process, capsys):
    typed = ("--arch", "nets.py:as_wide_as", "--set", "hidden_dim=16", "--inputs", "nets.py:a_pair", "--num-queries", "9")
    code, out, err = ends(capsys, "params", *typed, "--json", "-")
    assert code == 0, err
    document = json.loads(out)
    assert document["params"]["nets:as_wide_as"]["total"] == 28 * 16 + 18 * 256 + 32 + 330
    assert document["params"]["nets:as_wide_as"]["never_read"] == [] and document["workload"]["num_queries"] == 9


def test_scaling_is_over_the_batch(in_process, capsys):
    some = ("--no-time", "--from", "1", "--to", "4", "--points", "3")
    code, out, err = ends(capsys, "scaling", *PAIR, *INPUTS, *some, "--json", "-", "--quiet")
    assert code == 0, err
    found = {(row["architecture"], row["cost"]): row["exponent"] for row in json.loads(out)["exponents"]}
    assert found["small", "matmul and conv"] == pytest.approx(1) and found["wide", "parameters"] == pytest.approx(0)
    assert "Held fixed: inputs of nets.py:images." in json.loads(out)["conditions"]
    code, _, err = ends(capsys, "scaling", *PAIR, *INPUTS, "--over", "queries")
    assert code == 2 and "over is 'queries' and what --inputs makes grows with the batch alone; take --over batch." in err


# A whole report ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of a report of two small networks, beside the file they are in."""
    place = tmp_path_factory.mktemp("any")
    shutil.copy(FILE, place / "nets.py")
    with without_children() as patches:
        patches.chdir(place)
        assert cli.main(["report", *PAIR, *INPUTS, *QUICK, "--quiet", "-o", "out"]) == 0
    return place


def test_a_report_holds_every_measure_and_is_proved_by_its_records(report):
    run = load(report / "out")
    assert all(record.ok for record in run) and {record.workload["inputs"] for record in run} == {"nets.py:images"}
    assert {record.measure for record in run} == {"params", "flops", "fps", "component_time", "memory"}
    proof = verify(report / "out")
    assert proof.proved, [str(each) for each in proof.differences]
    text = (report / "out" / "report.md").read_text()
    assert "Workload inputs: batch 2, inputs of nets.py:images." in text and "matmul and conv, 2 items" in text
    parts = next(table for table in compare(run, "small").tables if table.name == "params_components")
    assert [row["part"] for row in parts.rows] == ["stem", "blocks", "head", "total"]


def test_a_report_is_gone_on_with_by_the_same_inputs_alone(report, monkeypatch, capsys):
    monkeypatch.chdir(report)
    before = (report / "out" / "records.jsonl").read_bytes()
    code, _, err = ends(capsys, "report", *PAIR, "--inputs", "nets.py:other_images", *QUICK, "--resume", "out")
    assert code == 2 and "was measured with inputs nets.py:images and nets.py:other_images is asked now; ask the same again." in err
    code, _, err = ends(capsys, "report", *PAIR, *QUICK, "--batch", "2", "--resume", "out")
    assert code == 2 and "out' was measured with" in err and "ask the same again" in err
    code, out, err = ends(capsys, "report", *PAIR, *INPUTS, *QUICK, "--resume", "out")
    assert code == 0 and "wide against small" in out
    assert (report / "out" / "records.jsonl").read_bytes() == before, "everything was there"


def test_two_runs_of_the_same_inputs_are_compared_and_of_others_not(in_process, report, monkeypatch, capsys):
    monkeypatch.chdir(report)
    assert cli.main(["params", *PAIR, *INPUTS, "--records", "again.jsonl", "--quiet"]) == 0
    assert cli.main(["params", *PAIR, "--inputs", "nets.py:other_images", "--records", "other.jsonl", "--quiet"]) == 0
    code, out, _ = ends(capsys, "compare", "again.jsonl", "again.jsonl")
    assert code == 0 and "the same" in out
    code, _, err = ends(capsys, "compare", "again.jsonl", "other.jsonl")
    assert code != 0 and "inputs" in err


@pytest.mark.parametrize(("function", "says"), [
    ("raises", "raises raised ValueError: no pictures here"), ("no_tensor", "no_tensor returned no tensor; it must return a tensor"),
    ("wants_more", "wants_more takes resolution, and what can be asked for is batch"), ("a_list", "a_list returned a list"),
])
def test_a_function_that_fails_is_a_sentence_in_every_row(in_process, function, says, capsys):
    code, _, err = ends(capsys, "flops", *PAIR, "--inputs", f"nets.py:{function}")
    assert code == 1 and says in err and "Traceback" not in err


def test_a_model_that_takes_the_shared_call_no_longer_is_told_of_inputs(in_process, capsys):
    code, _, err = ends(capsys, "flops", "--arch", "x=nets.py:as_wide_as", "--workload", "tiny")
    assert code == 1 and "x is called with srcs, masks, pos_embeds, query_embed, and" in err and "or call it by --inputs with" in err
