"""One real child process per measurement: what it replies, and what becomes of each model that goes wrong in it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from humar_bench.args import ModelArgs, RunArgs, Workload
from humar_bench.measures.speed import Progress
from humar_bench.records.record import Run, plain
from humar_bench.running import speed_worker, worker
from humar_bench.running.arm import Arm
from humar_bench.running.bench import benchmark
from humar_bench.running.new_inputs import NewInputs
from humar_bench.running.speed_worker import construction_order
from humar_bench.running.task import Task, failure
from humar_bench.subjects.registry import build, parse_architectures
from humar_bench.subjects.subject import NotFiniteOutputs

FOREIGN = f"{Path(__file__).parents[1]}/data/foreign_models.py"
ARGS = ModelArgs(
    hidden_dim=32, nheads=4, dim_feedforward=48, enc_layers=2, dec_layers=3, num_queries=5, num_body_points=6, efficient_nheads=2,
    efficient_enc_layers=2, efficient_encoder_sets=1,
)
RUN = RunArgs(device="cpu", processes=2, budget=0.2, min_runs=6, max_runs=40, threads=1, timeout=120.0)
WRONG = ("not_finite", "other_shapes", "crashes", "hungry", "raises", "fails_in_forward", "late")
SPEED = ("original", "efficient", "small", "chatty", *WRONG)


def measured(names, measures, **more) -> Run:
    builders = {"original": "original", "efficient": "efficient", "small": f"small={FOREIGN}:build"}
    architectures = [builders.get(name, f"{name}={FOREIGN}:{name}") for name in names]
    return benchmark(architectures, ARGS, Workload.tiny(), measures, more.pop("run", RUN), **more)


def rows(run: Run) -> dict:
    return {(each.architecture, each.process): (each.status, each.kind) for each in run}


@pytest.fixture(scope="module")
def speed() -> Run:
    """Architectures in two speed processes, most of them wrong each in its own way."""
    return measured(SPEED, ["fps"])


@pytest.fixture(scope="module")
def counted() -> Run:
    return measured(["efficient", "small", "other_shapes"], ["params", "flops"], counters=["profiler"])


@pytest.fixture(scope="module")
def memory() -> Run:
    run = measured(["efficient", "not_finite"], ["memory"])
    return run.plus(measured(["large"], ["memory"], limit_bytes=32 * 2**30))


def test_in_a_speed_process_those_that_fail_are_rows_and_the_others_are_timed_in_every_process(speed):
    assert rows(speed) == {
        **{(name, process): ("ok", "") for name in ("original", "original (again)", "efficient", "small", "chatty") for process in (0, 1)},
        ("crashes", 0): ("failed", "crash"),
        ("hungry", 0): ("failed", "out of memory"),
        ("not_finite", 0): ("failed", "not finite"),
        ("late", 0): ("failed", "not finite"),
        **{(name, 0): ("failed", "error") for name in ("other_shapes", "raises", "fails_in_forward")},
    }
    reasons = {each.architecture: each.reason for each in speed.failed}
    assert reasons["crashes"] == "crashes crashed its process with SIGSEGV."
    assert reasons["raises"] == "the builder of raises raised ValueError: width 32 is too wide."
    assert reasons["not_finite"] == "not_finite returned mix_embedding with 320 of 320 numbers NaN or infinite."
    assert reasons["fails_in_forward"] == "fails_in_forward raised IndexError: tuple index out of range."
    assert "can't allocate memory" in reasons["hungry"] and reasons["hungry"].endswith("try a smaller batch.")
    assert not any("\n" in reason or ".." in reason for reason in reasons.values())


def test_a_speed_record_holds_every_raw_value_of_its_process(speed):
    for process in (0, 1):
        here = speed.select(process=process, status="ok")
        assert len({each.measured["child"] for each in here}) == 1 and len({len(each.measured["wall_s"]) for each in here}) == 1
        for record in here:
            values = record.measured
            assert values["process"] == process and values["finite"] and values["batch"] == 2 and values["threads"] == 1
            assert 3 <= len(values["wall_s"]) == len(values["cpu_s"]) == len(values["preempted"]) <= 20
            assert min(values["wall_s"]) > 0 and values["first_call_s"] > 0 and values["device_s"] is None
            assert values["dtype"] == "float32" and set(values["tf32"]) == {"float32_matmul_precision", "matmul", "cudnn"}
            assert record.environment["threads"] == 1 and record.environment["torch"] == torch.__version__
        assert {each.measured["order_seed"] for each in here} == {process}


def test_nothing_a_child_prints_reaches_the_user(capfd):
    run = measured(["chatty"], ["params"])
    assert rows(run) == {("chatty", 0): ("ok", "")} and capfd.readouterr() == ("", "")


def test_parameters_and_flops_are_those_of_the_measures_themselves(counted):
    from humar_bench.measures.flops import count_flops
    from humar_bench.measures.params import count_parameters
    from humar_bench.subjects.transformer import make_inputs

    model = build("efficient", ARGS, device="meta")
    count = count_flops(model, make_inputs(ARGS, Workload.tiny(), device="meta"), strict=True)
    params = counted.select(measure="params", architecture="efficient")[0]
    flops = counted.select(measure="flops", architecture="efficient")[0]
    assert params.measured.items() >= plain(count_parameters(model).measured()).items()
    assert flops.measured.items() >= plain(count.measured()).items() and flops.measured["discarded"] == []
    names = {name for name, _ in model.named_parameters()}
    assert {each["name"] for each in params.measured["never_read"]} < names and params.measured["never_read"]
    [check] = flops.measured["cross_checks"]
    assert check["counter"] == "profiler" and check["reported"] > 0
    assert params.built == plain(model.built) and params.foreign is False


def test_a_foreign_model_is_counted_and_held_against_the_shared_call(counted):
    small = counted.select(architecture="small")
    assert [each.status for each in small] == ["ok", "ok"] and all(each.foreign for each in small)
    tokens, width, batch = 9 * 7 + 5 * 4 + 3 * 2 + 2 * 1, 32, 2
    flops = next(each for each in small if each.measure == "flops").measured["matmul_flops"]
    assert flops == 2 * batch * tokens * width * width + 2 * batch * 5 * 7 * width * 2  # encode, points
    wrong = counted.select(architecture="other_shapes", measure="flops")[0]
    assert wrong.kind == "error" and wrong.reason == "other_shapes returned mix_embedding of shape [2, 32, 5]; it must be [2, 5, 32]."


def test_memory_is_predicted_and_proved_in_the_child(memory):
    values = memory.select(architecture="efficient")[0].measured
    assert values["predicted_bytes"] + values["workspace_bytes"] == values["allocator_bytes"] == values["peak_bytes"] > 0
    assert values["difference_bytes"] == 0 and sum(values["by_component"].values()) == values["predicted_bytes"]
    assert values["resident_bytes"] is None or values["resident_bytes"] > values["peak_bytes"]


def test_components_of_ours_and_of_a_foreign_model_with_the_interfaces_names_are_timed_under_the_same_names():
    run = measured(["original", "interface", "not_finite"], ["component_time"])
    assert rows(run) == {("original", 0): ("ok", ""), ("interface", 0): ("ok", ""), ("not_finite", 0): ("failed", "not finite")}
    ours, theirs = (run.select(architecture=name)[0].measured for name in ("original", "interface"))
    assert ours["components"].keys() == {"frame", "encoder", "proposals", "heads", "decoder"}
    assert theirs["components"].keys() == {"frame", "encode", "points", "proposals", "heads", "decoder"}
    assert ours["entered"]["heads"] == 2 + ARGS.dec_layers and ours["clocks"] == ["wall_s", "cpu_s"] and ours["batch"] == 2


def test_outputs_that_are_not_finite_and_an_address_space_that_ends_are_rows(memory):
    assert rows(memory)["not_finite", 0] == ("failed", "not finite")
    assert rows(memory)["large", 0] == ("failed", "out of memory")
    assert "68719476736 bytes" in memory.select(architecture="large")[0].reason


def test_a_device_that_is_not_there_is_a_wrong_command_line_and_not_a_row():
    from humar_bench.errors import UsageError

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(UsageError, match="finds no CUDA device here; use --device cpu"):
        measured(["small"], ["memory"], run=dataclasses.replace(RUN, device="cuda"))


def test_a_worker_whose_parent_is_killed_ends_too(tmp_path):
    script = (
        "import sys; from humar_bench.running.bench import benchmark; from humar_bench.args import *\n"
        f"benchmark(['hangs={FOREIGN}:hangs'], ModelArgs(), Workload.tiny(), ['memory'], RunArgs(device='cpu'),"
        f" progress=lambda event: open({str(tmp_path / 'said')!r}, 'w').write(event['status']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(worker.__file__).parents[2]), "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", script], env=environment)
    try:
        give_up = time.monotonic() + 300
        while not ((tmp_path / "said").exists() and (tmp_path / "said").read_text() == "running") and time.monotonic() < give_up:
            time.sleep(0.05)
        said = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent.pid)], capture_output=True, text=True, check=True).stdout
        [child] = [int(line) for line in said.split()]
    finally:
        parent.kill()
        parent.wait()
    state = ""
    for _ in range(100):
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(child)], capture_output=True, text=True, check=False).stdout.strip()
        if not state or state.startswith("Z"):
            break
        time.sleep(0.05)
    assert not state or state.startswith("Z")


# Parts, in this process ------------------------------------------------------------------------------------------------------------


def a_task(*names: str, process: int = 0, events: int | None = None) -> Task:
    request = {
        "measure": "fps", "architectures": [dataclasses.asdict(each) for each in parse_architectures(names or ["original"])],
        "asked": dataclasses.asdict(ARGS), "workload": dataclasses.asdict(Workload.tiny()), "run": dataclasses.asdict(RUN),
        "process": process, "events": events,
    }
    return Task.read(json.loads(json.dumps(request)))


def test_a_request_comes_back_as_what_it_was_made_of():
    task = a_task("original", "x=efficient", process=3)
    assert (task.args, task.workload, task.run, task.process) == (ARGS, Workload.tiny(), RUN, 3)
    assert task.architectures == parse_architectures(["original", "x=efficient"])


def test_the_order_of_construction_differs_between_processes_and_repeats_with_the_seed():
    def orders():
        tasks = [a_task("a=original", "b=original", "c=original", process=process) for process in range(12)]
        return [[each.name for each in construction_order(task)] for task in tasks]

    assert orders() == orders()
    assert {order[0] for order in orders()} == {"a", "b", "c"}


def test_the_first_call_is_announced_and_its_outputs_are_checked_before_anything_else():
    said = []

    class Model(torch.nn.Module):
        def forward(self, x):
            said.append("grad" if torch.is_grad_enabled() else "run")
            return x

    arm = Arm("x", Model(), (torch.ones(1),), None, check=lambda outputs: said.append("check"), started=lambda: said.append("started"))
    arm()
    arm.check_first()
    arm()
    assert said == ["started", "run", "check", "run"] and arm.kept is None


def test_a_refused_first_output_is_kept_as_the_error():
    def refuse(outputs):
        raise NotFiniteOutputs("no.")

    arm = Arm("x", torch.nn.Identity(), (torch.ones(1),), NewInputs(lambda other: None, lambda inputs: []), check=refuse)
    arm()
    with pytest.raises(NotFiniteOutputs):
        arm.check_first()
    assert isinstance(arm.error, NotFiniteOutputs) and arm.first is None


def test_progress_is_passed_on_once_a_stage_and_then_seldom():
    reading, writing = os.pipe()
    tell = speed_worker._throttled(a_task(events=writing))
    for stage, architecture in (("warm-up", "a"), ("warm-up", "b"), ("timing", ""), ("timing", ""), ("timing", "")):
        tell(Progress(stage, architecture, 1, 0.5))
    os.close(writing)
    with open(reading) as pipe:
        assert [json.loads(line)["stage"] for line in pipe] == ["warm-up", "timing"]
    a_task(events=None).tell("build")  # nobody listens: nothing happens
    a_task(events=writing).tell("build")  # nobody is there any more


def test_an_exception_becomes_a_kind_and_a_sentence():
    assert failure(MemoryError(), "x")["kind"] == "out of memory"
    assert failure(NotFiniteOutputs("x returned NaN."), "x") == {
        "status": "failed", "kind": "not finite", "reason": "x returned NaN.", "built": {}, "measured": None,
    }
    assert failure(KeyError("gone"), "x")["reason"] == "x raised KeyError: 'gone'."
