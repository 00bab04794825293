"""Anybody's models through the bench: speed on a virtual clock with every check, records, and what a child process can reach."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from humar_bench.args import FreeWorkload, RunArgs, Workload
from humar_bench.devices import environment, opening
from humar_bench.errors import UsageError
from humar_bench.judging.speeds import read_speeds
from humar_bench.records.audit import faults
from humar_bench.records.record import Run
from humar_bench.report.comparison import compare
from humar_bench.running.bench import benchmark
from humar_bench.subjects.reach import reached
from humar_bench.subjects.registry import parse_architectures
from tests.data import any_models
from tests.data.any_models import Network, images, small, wide
from tests.faults import models
from tests.faults.harness import VirtualCpu, without_children

FILE = str(Path(any_models.__file__))
VIRTUAL = RunArgs(device="cpu", processes=5, first_look=3, budget=40.0, min_runs=5, max_runs=120, threads=1)
QUICK = RunArgs(device="cpu", processes=1, budget=0.2, min_runs=2, max_runs=4, threads=1, control=False)


def timed(names, inputs: str, *, run: RunArgs = VIRTUAL) -> Run:
    """Speed of classes of any_timed.py, without children and on virtual time."""
    def opened(name: str) -> VirtualCpu:
        models.DEVICE = VirtualCpu()
        return models.DEVICE

    with without_children() as patches:
        patches.setattr(opening, "open_device", opened)
        patches.setattr(environment, "source_state", lambda: (None, None))
        patches.setattr(environment, "package_versions", dict)
        return benchmark(
            [f"{name}=tests.data.any_timed:{name}" for name in names], workload=Workload.uniphd(3), measures=["fps"], run=run,
            inputs=inputs if ":" in inputs else f"tests.data.any_models:{inputs}",
        )


def speeds(run: Run):
    return read_speeds(run, run.architectures[0], run.architectures)


# Speed ------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures() -> Run:
    return timed(["Plain", "Half", "Remembers", "Drifts"], "images")


def test_twice_as_fast_is_found_and_its_outputs_were_held_before_and_after(pictures):
    found = speeds(pictures)
    assert found["Half"].verdict == "faster" and found["Half"].ratio == pytest.approx(2, rel=0.02)
    assert found["Plain"].fps == pytest.approx(3 / models.KERNEL_S, rel=0.02), "batch by median seconds"
    record = pictures.select(architecture="Half", process=0)[0]
    assert record.measured["agreement"] == {
        "checked": "before and after", "skipped": "", "max_error": 0.0, "worst": "output", "tolerance": 1e-3,
    }
    assert record.workload["subject"] == "free" and record.workload["inputs"] == "tests.data.any_models:images"


def test_the_reference_is_timed_a_second_time_as_a_control(pictures):
    assert len(pictures.select(architecture="Plain (again)", status="ok")) >= 3
    assert speeds(pictures).control.detected.verdict == "same"


def test_a_model_that_knows_its_inputs_is_not_called_faster(pictures):
    found = speeds(pictures)["Remembers"]
    assert found.verdict == "invalid" and "on inputs" in found.why and found.varied == "differs"


def test_a_model_that_answers_otherwise_each_time_has_no_speed(pictures):
    [failed] = pictures.select(architecture="Drifts")
    assert not failed.ok and "Drifts" in failed.reason and "output is off by" in failed.reason


def test_records_contradict_nothing_and_tables_speak_of_items(pictures):
    assert [each for record in pictures for each in faults(record)] == []
    comparison = compare(pictures, "Plain")
    headings = [column.heading for table in comparison.tables for column in table.columns]
    assert "speed [items/s]" in headings and "speed [images/s]" not in headings
    feet = "\n".join(foot for table in comparison.tables for foot in table.feet)
    assert "Half: outputs as a float32 eager forward's; largest error 0 of the root mean square" in feet and "proposals" not in feet
    assert comparison.conditions[0] == "Workload inputs: batch 3, inputs of tests.data.any_models:images."
    assert not any("arguments" in line for line in comparison.conditions)


def test_whole_numbers_by_name_are_new_each_time_too():
    run = timed(["Tags", "TagsByMemory"], "ids_alone")
    found = speeds(run)
    assert found["Tags"].varied == "agrees"
    assert found["TagsByMemory"].verdict == "invalid" and found["TagsByMemory"].varied == "differs"
    assert run.select(architecture="Tags")[0].measured["agreement"]["checked"] == "before and after"


def test_the_batch_of_a_recurrent_net_may_be_its_second_dimension():
    [record] = timed(["Steps"], "sequences", run=dataclasses.replace(QUICK, budget=4.0))
    assert record.ok, record.reason
    assert record.measured["batch"] == 3 and faults(record) == []


@pytest.mark.parametrize("kind", ["bfloat16", "double"])
def test_models_and_inputs_keep_the_number_types_they_were_made_in(kind):
    [record] = timed([f"in_{kind}"], f"tests.data.any_timed:images_in_{kind}", run=QUICK)
    assert record.ok, record.reason
    assert record.measured["agreement"]["checked"] == "before and after" and record.measured["agreement"]["max_error"] == 0
    assert list(record.measured["as_built"]) == ["bfloat16" if kind == "bfloat16" else "float64"]


def test_a_number_type_that_is_asked_for_is_that_of_weights_and_inputs():
    [record] = timed(["Plain"], "images", run=dataclasses.replace(QUICK, dtype="bfloat16"))
    assert record.ok, record.reason
    assert record.measured["agreement"]["tolerance"] == 0.2 and 0 < record.measured["agreement"]["max_error"] < 0.05


def test_inputs_that_cannot_be_renewed_fail_before_anything_is_timed():
    [record] = timed(["Plain"], "always_the_same", run=QUICK)
    assert not record.ok and "gives the same numbers whatever the seed" in record.reason


# In children ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_measure_of_two_small_networks_in_children():
    run = benchmark(
        [small, functools.partial(Network, width=8)], workload=Workload.uniphd(2), run=QUICK, inputs=images,
        components={"encoder": ["stem", "blocks"]},
    )
    assert all(record.ok for record in run), [record.reason for record in run]
    assert {record.measure for record in run} == {"params", "flops", "fps", "component_time", "memory"}
    assert [faults(record) for record in run] == [[]] * len(run)
    flops = {record.architecture: record.measured for record in run.select(measure="flops")}
    assert list(flops) == ["small", "Network(width=8)"]
    assert flops["small"]["matmul_flops"] == 2 * (2 * 64 * 27 * 4 + 2 * 16 * 18 * 16 + 2 * 2 * 4 * 10)
    assert flops["small"]["batch"] == 2 and set(flops["small"]["components"]) == {"encoder", "head", "(top)"}
    for record in run.select(measure="memory"):
        assert record.measured["predicted_bytes"] > 0 and record.measured["difference_bytes"] == 0


def test_a_hugging_face_model(in_process):
    pytest.importorskip("transformers")
    run = benchmark({"bert": f"{FILE}:tiny_bert"}, workload=Workload.uniphd(2), run=QUICK, inputs=f"{FILE}:text")
    assert all(record.ok for record in run), [record.reason for record in run]
    [flops] = run.select(measure="flops")
    assert flops.measured["matmul_flops"] == 2 * 2 * (2 * 7 * (4 * 256 + 2 * 512 + 2 * 7 * 16) + 256)
    [params] = run.select(measure="params")
    assert params.measured["never_read"] == []
    [fps] = run.select(measure="fps")
    assert fps.measured["agreement"]["worst"] in ("last_hidden_state", "pooler_output")
    [memory] = run.select(measure="memory")
    assert abs(memory.measured["difference_bytes"]) <= 2 * 7 * 7, "without values it makes a mask that it else finds needless"


def test_what_goes_wrong_is_a_row_of_its_own():
    names = ("Silent", "Undefined", "TakesTwo", "NeedsAWidth", "small")
    run = benchmark({name: f"{FILE}:{name}" for name in names}, workload=Workload.uniphd(2), run=QUICK, measures=["fps"], inputs=images)
    said = {record.architecture: record.reason for record in run}
    assert said["small"] == ""
    assert "Silent returned a str without a tensor in it" in said["Silent"]
    assert said["Undefined"] == "Undefined returned output with 20 of 20 numbers NaN or infinite."
    called = "TakesTwo is called with what tests.data.any_models:images gives (1 by position), and TakesTwo.forward() missing 1"
    assert called in said["TakesTwo"]
    assert "NeedsAWidth is a class that takes width" in said["NeedsAWidth"]


# What a child can reach ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("thing", "name", "spec"), [
    (small, "small", "any_models.py:small"), (Network, "Network", "any_models.py:Network"), (any_models.net, "net", "any_models.py:net"),
    (functools.partial(Network, 6), "Network(6)", "any_models.py:Network(6)"),
    (functools.partial(Network, width=6), "Network(width=6)", "any_models.py:Network(width=6)"),
    (functools.partial(small), "small", "any_models.py:small"),
])
def test_what_stands_in_a_file_or_a_package_is_reached(thing, name, spec):
    assert reached(thing, "", "") == (name, spec.replace("any_models.py", "tests.data.any_models"))


def test_several_are_named_as_they_are_or_as_a_mapping_says():
    assert [each.name for each in parse_architectures([small, wide, "m=original"])] == ["small", "wide", "m"]
    assert [each.name for each in parse_architectures({"a": small, "b": functools.partial(Network, 3)})] == ["a", "b"]
    assert [each.name for each in parse_architectures(any_models.net)] == ["net"]


def local_function():
    def inside(batch):
        return torch.ones(batch)

    return inside


@pytest.mark.parametrize(("thing", "says"), [
    (lambda: Network(3), "is a lambda, which a measuring process cannot find; write it as a function of its own into a file"),
    (local_function(), "is a function inside another, which a measuring process cannot find"),
    (Network(5), "was made while this program runs, and a measuring process cannot have it; give the function or class"),
    (functools.partial(Network, width=torch.ones(1)), "has arguments that cannot be written down as text"),
    (functools.partial(Network(5).forward), "is not what .* has under the name Network.forward"),
])
def test_what_a_child_cannot_reach_is_one_sentence(thing, says):
    with pytest.raises(UsageError, match=says):
        benchmark([thing], inputs=images, measures=["params"])
    with pytest.raises(UsageError, match=says):
        benchmark([small], inputs=thing, measures=["params"])


def test_inputs_are_a_function_and_of_models_alone():
    with pytest.raises(UsageError, match="inputs tensor.* is not text; name a function, as in file.py:function"):
        benchmark([small], inputs=torch.ones(2), measures=["params"])
    with pytest.raises(UsageError, match="components are of models that are called by inputs; give inputs too"):
        benchmark([small], components={"a": ["b"]}, measures=["params"])
    with pytest.raises(UsageError, match="inputs is 'images'; name the function that makes them"):
        benchmark([small], inputs="images", measures=["params"])


SCRIPT = """
import functools
import sys

import torch
from torch import nn

from humar_bench import benchmark


class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.layer = nn.Linear(4, width)

    def forward(self, x):
        return self.layer(x)


def inputs(batch):
    return torch.randn(batch, 4)


{guard}
    run = benchmark([Net, functools.partial(Net, width=5)], inputs=inputs, measures=["params"])
    for record in run:
        print(record.architecture, record.spec, record.measured["total"] if record.ok else record.reason)
    made = Net(7)
    try:
        benchmark([made], inputs=inputs, measures=["params"])
    except ValueError as error:
        print(error)
"""


def ran(text: str, folder: Path, *, as_file: bool = True) -> str:
    (folder / "script.py").write_text(text)
    argv = [sys.executable, "script.py"] if as_file else [sys.executable, "-c", text]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=folder, env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""})
    return done.stdout + done.stderr


def test_a_script_measures_its_own_classes(tmp_path):
    said = ran(SCRIPT.replace("{guard}", 'if __name__ == "__main__":'), tmp_path).splitlines()
    assert said[0] == "Net script.py:Net 15" and said[1] == "Net(width=5) script.py:Net(width=5) 25"
    assert "was made while this program runs" in said[2] and "outside of functions and of if __name__ == '__main__'." in said[2]


def test_a_script_without_a_guard_and_a_session_are_told_what_to_do(tmp_path):
    assert "benchmark is called while script.py is loaded to find a model in it; put the call under" in ran(
        SCRIPT.replace("{guard}", "if True:"), tmp_path)
    said = ran(SCRIPT.replace("{guard}", "if True:"), tmp_path, as_file=False)
    assert "was made while this program runs" in said or "was written in a notebook or an interactive session" in said


def test_a_workload_of_inputs_is_asked_in_python_too(in_process):
    run = benchmark([small], workload=Workload.uniphd(4), measures=["flops"], inputs=images, run=QUICK)
    work = FreeWorkload.around(Workload.uniphd(4), "tests.data.any_models:images")
    assert run[0].workload["inputs"] == work.inputs and run[0].measured["batch"] == 4
