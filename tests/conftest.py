"""Shared small arguments: the whole suite runs in minutes on two CPU cores."""

from __future__ import annotations

import functools
import gc
import os
import signal
from collections.abc import Callable, Iterator

import pytest
import typer.main

from humar_bench.args import ModelArgs, Workload

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads of OpenMP that wait leave the cores to others
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C, and its children would too
typer.main.get_command = functools.cache(typer.main.get_command)  # else built anew, for half its time, in each call of `cli.main`


class _Frozen:
    """gc with a count of frozen objects that is 0 or 1: Python's own walks through all of them, here each time for 0.05 s."""

    freeze, unfreeze, count = gc.freeze, gc.unfreeze, 0

    @classmethod
    def put_in(cls) -> None:
        gc.freeze = lambda: (cls.freeze(), setattr(cls, "count", 1))[0]
        gc.unfreeze = lambda: (cls.unfreeze(), setattr(cls, "count", 0))[0]
        gc.get_freeze_count = lambda: cls.count


_Frozen.put_in()


@pytest.fixture
def tiny_args() -> ModelArgs:
    """Unequal sizes everywhere, so that a swapped axis shows."""
    return ModelArgs(
        hidden_dim=32, nheads=4, dim_feedforward=48, enc_layers=2, dec_layers=3, num_feature_levels=4, num_queries=5,
        num_body_points=6, efficient_nheads=2, efficient_enc_layers=2, efficient_encoder_sets=1,
    )


@pytest.fixture
def tiny_workload() -> Workload:
    return Workload.tiny()


@pytest.fixture
def in_process() -> Iterator[None]:
    """No child is started: for tests of what is counted, timed, kept and shown. The children themselves are tested in tests/running."""
    from tests.faults.harness import without_children

    with without_children():
        yield


@pytest.fixture
def say(record_property) -> Callable[[str], None]:
    """Show a line below the results: error rates and counts are the point of some tests. Also from a worker of pytest-xdist."""
    return lambda line: record_property("said", line)


def pytest_terminal_summary(terminalreporter) -> None:
    reports = [each for each in terminalreporter.getreports("passed") if each.when == "call"]
    if lines := [line for each in reports for name, line in each.user_properties if name == "said"]:
        terminalreporter.section("what was measured")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="module", autouse=True)
def _young_garbage_alone():
    """A measurement collects garbage several times; among all that torch, scipy and pytest loaded each time takes 0.2 s. A test that
    thaws it freezes it again: whether that is so takes each of 5,000 tests 0.01 s to ask."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _one_thread():
    torch = __import__("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
