"""Who may import whom, read from every file and held against one table; light rooms never reach for torch."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("humar_bench", "baselines", "efficient")
EVERYBODY = {"args", "errors"}  # may be imported from every room
LIGHT = {"numpy", "scipy", "pandas", "rich"}  # third-party packages of the rooms without torch

# Room -> rooms and third-party packages it may import when it is imported itself, beside the standard library and EVERYBODY.
DOORS: dict[str, set[str]] = {
    "front": set(),
    "__main__": {"cli"},
    "args": set(),
    "errors": set(),
    "audit": set(),
    "record": set(),
    "table": set(),
    "registry": set(),
    "statistics": {"numpy", "scipy"},
    "options": {"registry", "record"},
    "breakdown": {"table"},
    "judging": {"oddities", "record", "statistics", "numpy"},
    "oddities": {"statistics", "table"},
    "energies": {"record", "statistics", "table"},
    "speeds": {"energies", "judging", "oddities", "record", "statistics", "table", "numpy"},
    "speed_table": {"energies", "judging", "speeds", "statistics", "table"},
    "comparison": {"breakdown", "record", "registry", "speed_table", "speeds", "table"},
    "report": {"calibrate", "claims", "comparison", "evidence", "record", "table", "rich"},
    "costs": {"children", "record", "registry"},
    "cost_worker": {"device", "environment", "measures", "record", "registry", "task", "worker", "torch"},
    "growth": {"numpy", "scipy"},
    "scaling_tables": {"breakdown", "comparison", "growth", "record", "report", "speeds", "table", "numpy"},
    "scaling": {"costs", "options", "record", "registry", "scaling_tables", "numpy"},
    "ablate": {"breakdown", "comparison", "costs", "in_turn", "options", "record", "registry", "speeds", "table"},
    "in_turn": {"costs", "record"},
    "roofline": {"children", "comparison", "costs", "in_turn", "options", "record", "roofline_tables", "speeds", "table"},
    "roofline_tables": {"breakdown", "table"},
    "ceilings_worker": {"device", "environment", "measures", "record", "task", "worker", "torch"},
    "verify": {"audit", "calibrate", "front", "record", "report"},
    "checkpoint": {"table"},
    "claims": {"evidence", "statistics", "table", "numpy"},
    "evidence": {"costs", "options", "record", "registry"},
    "claims_worker": {"inputs", "registry", "task", "worker", "torch"},
    "unpaired": {"statistics", "numpy", "scipy"},
    "regression": {"audit", "comparison", "judging", "record", "speeds", "statistics", "table", "unpaired", "numpy"},
    "rules": {"numpy", "scipy"},
    "error_rates": {"rules", "statistics", "numpy", "scipy"},
    "calibrate": {"children", "options"},
    "calibrate_worker": {"device", "environment", "measures", "worker", "torch"},
    "progress": set(),
    "typer_options": {"typer"},
    "cli": {"audit", "front", "calibrate", "evidence", "options", "record", "registry", "typer_options", "typer"},
    "inputs": {"torch"},
    "device": {"torch"},
    "virtual_device": {"device", "torch"},
    "measures": {"torch", "inputs", "device", "virtual_device", "statistics", "numpy"},
    "environment": {"device", "registry", "torch"},
    "skeleton": {"torch"},
    "baselines": {"skeleton", "torch", "triton"},
    "efficient": {"skeleton", "torch", "triton"},
    "task": {"registry", "inputs", "torch"},
    "worker": {
        "backends", "registry", "inputs", "device", "virtual_device", "measures", "environment", "record", "speed_worker", "statistics",
        "task", "torch", "numpy",
    },
    "backends": {"torch", "numpy"},
    "matrix": {"backends", "costs", "matrix_table", "options", "record", "registry"},
    "matrix_table": {"comparison", "record", "speeds", "statistics", "table", "unpaired", "numpy", "scipy"},
    "knife_edge": {"skeleton", "torch"},
    "preparation": {"backends", "device", "measures", "registry", "task", "torch"},
    "speed_worker": {"device", "knife_edge", "measures", "preparation", "record", "registry", "task", "torch"},
    "bench": {
        "audit", "backends", "children", "registry", "inputs", "device", "virtual_device", "measures", "environment", "judging", "record",
        "statistics", "worker",
    },
    "children": set(),
}
# What a room may import beside that inside a function, where importing it has to wait or may fail.
LATE: dict[str, set[str]] = {
    "backends": {"onnx", "onnxruntime", "openvino"},
    "front": set(DOORS) - {"front"},
    "registry": {"torch", "baselines", "efficient"},
    "calibrate": {"error_rates", "statistics"},
    "checkpoint": {"torch"},
    "evidence": {"bench", "children"},
    "comparison": {"pandas"},
    "report": {"matplotlib"},
    "scaling": {"bench"},
    "in_turn": {"bench"},
    "matrix": {"bench"},
    "progress": {"report", "rich"},
    "cli": {
        *("ablate", "bench", "claims", "matrix", "roofline", "scaling", "comparison", "device", "environment"), "progress", "regression",
        "report", "table", "verify",
    },
    "device": {"virtual_device", "pynvml"},
    "measures": {"fvcore", "thop"},
    "environment": {"torch"},
    "bench": {"torch"},
}


def room_of(module: str) -> str:
    """'humar_bench.report.data' -> 'report', 'torch.nn' -> 'torch', 'humar_bench' -> 'front'."""
    first, *rest = module.split(".")
    if first != "humar_bench":
        return first
    return rest[0] if rest else "front"


def imports_of(source: str) -> list[tuple[str, bool, int]]:
    """(module, whether inside a function, line) of every import that is made when the program runs."""
    found: list[tuple[str, bool, int]] = []

    def walk(node: ast.AST, late: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((each.name, late, child.lineno) for each in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"line {child.lineno}: a relative import hides which room it means."
                package = child.module == "humar_bench"
                found.extend((f"humar_bench.{each.name}" if package else child.module, late, child.lineno) for each in child.names)
            elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                walk(ast.Module(child.orelse, []), late)
            else:
                walk(child, late or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    walk(ast.parse(source), False)
    return found


def wrong_doors(module: str, source: str) -> list[str]:
    """One sentence for every import the table does not allow."""
    room = room_of(module)
    if room not in DOORS:
        return [f"{module} is in no room of the table; add {room!r} to DOORS."]
    wrong = []
    for imported, late, line in imports_of(source):
        target = room_of(imported)
        if imported == "humar_bench.__version__":
            target = "front"
        if target in sys.stdlib_module_names and imported.split(".")[0] not in OURS:
            continue
        allowed = DOORS[room] | EVERYBODY | {room} | (LATE.get(room, set()) if late else set())
        if target not in allowed:
            wrong.append(f"{module} line {line} imports {imported}{' inside a function' if late else ''}; {room} may not import {target}.")
    return wrong


def modules() -> dict[str, Path]:
    found = {}
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@pytest.mark.parametrize(("module", "path"), modules().items(), ids=list(modules()))
def test_every_import_goes_through_a_door(module, path):
    assert not wrong_doors(module, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("module", "source"), [
    ("humar_bench.report.comparison", "import torch"),
    ("humar_bench.cli", "from torch import nn"),
    ("humar_bench.args", "def f():\n    import pandas"),
    ("humar_bench.judging.statistics", "from humar_bench import bench"),
    ("humar_bench.measures.params", "from humar_bench.subjects.registry import build"),
    ("humar_bench.measures.params", "import baselines.transformer"),
    ("humar_bench.subjects.registry", "import efficient.transformer"),
    ("baselines.transformer", "from efficient.layers import EfficientLinearAttention"),
    ("efficient.transformer", "class A:\n    from humar_bench.running.bench import benchmark"),
    ("humar_bench.records.record", "try:\n    import torch\nexcept ImportError:\n    torch = None"),
    ("humar_bench.newroom", "import os"),
])
def test_the_check_can_fail(module, source):
    assert len(wrong_doors(module, source)) == 1


@pytest.mark.parametrize(("module", "source"), [
    ("humar_bench.report.comparison", "import json, collections.abc\nfrom humar_bench.errors import UsageError"),
    ("humar_bench.subjects.registry", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\ndef f():\n    import torch"),
    ("efficient.transformer", "import torch.nn.functional\nfrom humar_bench.skeleton.layers import MLP"),
    ("humar_bench.judging.statistics", "from statistics import median"),
])
def test_the_check_lets_the_right_ones_through(module, source):
    assert not wrong_doors(module, source)


def test_no_room_of_the_table_is_gone():
    rooms = {room_of(module) for module in modules()}
    assert not set(DOORS) - rooms, "a room in DOORS that has no file; take it out."


def names_all(source: str) -> list[str] | None:
    """The literal `__all__` of a file, None where there is none or it is computed."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            return list(ast.literal_eval(node.value)) if isinstance(node.value, (ast.List, ast.Tuple)) else None
    return None


def public_names(source: str) -> set[str]:
    """What a package's front file brings in or defines, without names that begin with an underscore."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            names |= {each.asname or each.name for each in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("path", [path for path in modules().values() if names_all(path.read_text(encoding="utf-8")) is not None], ids=str)
def test_all_is_sorted_and_complete(path):
    source = path.read_text(encoding="utf-8")
    names = names_all(source)
    assert names == sorted(names)
    if path.name == "__init__.py":  # a front file brings in only what it offers
        assert set(names) == public_names(source)
    assert set(names) <= public_names(source)


def test_the_check_of_all_can_fail():
    source = "from a import b, c\n__all__ = ['c', 'b']"
    assert names_all(source) != sorted(names_all(source))
    assert public_names("from a import b, c") != {"b"}


def test_the_front_door_is_sorted_and_every_name_opens():
    import humar_bench

    assert humar_bench.__all__ == sorted(humar_bench.__all__)
    for _ in range(2):  # a name may be a module's too, and importing that module must not shut the door
        for name in humar_bench.__all__:
            assert callable(getattr(humar_bench, name)), name
    with pytest.raises(AttributeError, match="humar_bench has no 'measure'; it has ModelArgs"):
        _ = humar_bench.measure
