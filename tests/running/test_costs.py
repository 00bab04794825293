"""Counts share a real child, as long as what an earlier model left in it does not count with a later one."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from humar_bench.args import BUILT_IN, RunArgs, Workload
from humar_bench.running import costs
from humar_bench.running.children import Child
from humar_bench.running.cost_worker import _meets_a_namesake
from humar_bench.running.costs import Count, Point, count_all
from humar_bench.subjects.registry import parse_architecture

WIDE = "from torch import nn\nfrom sizes import WIDTH\n\n\ndef build(args):\n    return nn.Linear(WIDTH, WIDTH)\n"
MEDDLES = "import torch\n\n\ndef build(args):\n    torch.set_default_dtype(torch.float64)\n    return torch.nn.Linear(3, 4)\n"
EXTRA = "import os\n\nos._exit(1)\n"
EXITS = "raise SystemExit('left on import')\n"
FORKS = "import os\n\nfrom torch import nn\n\n\ndef build(args):\n    os.fork()\n    return nn.Linear(2, 3)\n"


@pytest.fixture
def files(tmp_path):
    """Two folders whose files bring a neighbour of the same name, and two files that leave something behind."""
    for name, width in (("a", 5), ("b", 7)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sizes.py").write_text(f"WIDTH = {width}\n")
        (tmp_path / name / f"model_{name}.py").write_text(WIDE)
    (tmp_path / "meddles.py").write_text(MEDDLES)
    (tmp_path / "leaves.py").write_text(EXTRA)
    return tmp_path


@pytest.fixture
def started(monkeypatch) -> list[int]:
    """How many counts each child was asked for."""
    asked: list[int] = []

    def child(request, **more):
        asked.append(len(request["items"]))
        return Child(request, **more)

    monkeypatch.setattr(costs, "Child", child)
    return asked


def counted(args, *specs: str, measure: str = "params") -> dict[str, dict]:
    found: dict[str, dict] = {}
    points = [Point(parse_architecture(each), args, Workload.tiny()) for each in specs]

    def keep(count, result, facts):
        found[count.name] = result

    count_all([Count(each, measure) for each in points], RunArgs(device="cpu"), keep)
    return found


def test_every_built_in_architecture_and_files_of_ones_own_share_one_child(tiny_args, files, started):
    found = counted(tiny_args, *BUILT_IN, "again=original", f"own={files}/a/model_a.py:build", f"twin={files}/a/model_a.py:build")
    assert started == [len(BUILT_IN) + 3] and all(each["status"] == "ok" for each in found.values())
    totals = {name: each["measured"]["total"] for name, each in found.items()}
    assert totals["original"] == totals["again"] > totals["efficient"] and totals["own"] == totals["twin"] == 5 * 5 + 5


def test_what_one_model_leaves_behind_does_not_count_with_the_next(tiny_args, files, started):
    specs = [f"leaves={files}/leaves.py:os", f"a={files}/a/model_a.py:build", f"b={files}/b/model_b.py:build",
             f"meddles={files}/meddles.py:build", f"last={files}/meddles.py:build"]
    found = counted(tiny_args, *specs)
    assert found["leaves"]["status"] == "failed" and "exit code 1" in found["leaves"]["reason"]
    measured = {name: found[name]["measured"] for name in ("a", "b", "meddles", "last")}
    assert [measured[name]["total"] for name in ("a", "b")] == [30, 56]  # each its own neighbour's width
    assert [measured[name]["param_bytes"] for name in ("meddles", "last")] == [8 * 16] * 2  # as built
    assert started == [5, 1, 4, 3, 1]  # it left, alone too; b meets a's neighbour; the last would find float64 set


def test_a_builder_that_forks_costs_no_row_but_its_own(tiny_args, files, started):
    """Both of it go on and answer; what the next one is counted in is a child of its own."""
    (files / "forks.py").write_text(FORKS)
    found = counted(tiny_args, f"forks={files}/forks.py:build", f"a={files}/a/model_a.py:build")
    assert found["a"]["status"] == "ok" and found["a"]["measured"]["total"] == 30


def test_a_builder_that_closes_the_pipe_costs_no_row_but_its_own(tiny_args, files, started):
    (files / "closes.py").write_text(FORKS.replace("os.fork()", "os.closerange(3, 100)"))
    found = counted(tiny_args, f"closes={files}/closes.py:build", f"a={files}/a/model_a.py:build")
    assert found["closes"]["reason"] == costs.NOTHING and found["a"]["status"] == "ok"


def test_a_file_that_exits_when_it_is_loaded_is_a_sentence(tiny_args, files):
    (files / "exits.py").write_text(EXITS)
    found = counted(tiny_args, f"exits={files}/exits.py:SystemExit")["exits"]
    assert found["reason"] == "the file exits.py cannot be loaded: it raised SystemExit: left on import."


@pytest.mark.parametrize(("spec", "meets"), [
    ("{}/b/model_b.py:build", True), ("{}/a/model_a.py:build", False), ("some.package:build", False), ("original", False),
])
def test_a_neighbour_of_the_same_name_is_one_from_another_folder(files, monkeypatch, spec, meets):
    loaded = set(sys.modules)
    module = ModuleType("sizes")
    module.__file__ = str(files / "a" / "sizes.py")
    monkeypatch.setitem(sys.modules, "sizes", module)
    assert _meets_a_namesake(parse_architecture(spec.format(files)), loaded) is meets
    assert not _meets_a_namesake(parse_architecture(spec.format(files)), {*loaded, "sizes"})
