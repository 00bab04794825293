"""Who may import whom: one row a room, read from the folder tree. Imports run downwards, no two files import each other in a circle."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("humar_bench", "baselines", "efficient")
VOCABULARY = {"args", "errors", "options", "reading", "table"}  # top-level files that every room may read
TOP_LEVEL = {*VOCABULARY, "__init__", "__main__"}
ARITHMETIC = {"numpy", "scipy"}

# Room -> the rooms below that it may import when it is imported, and the packages from elsewhere. Lowest first.
DOORS: dict[str, set[str]] = {
    "vocabulary": set(),
    "records": set(),
    "skeleton": {"torch"},
    "baselines": {"skeleton", "torch", "triton"},
    "efficient": {"skeleton", "baselines", "torch", "triton"},
    "uniphd": {"skeleton", "torch"},
    "devices": {"torch"},
    "judging": {"records", *ARITHMETIC},
    "backends": {"torch", "numpy"},
    "subjects": {"skeleton", "uniphd", "torch"},
    "measures": {"devices", "judging", "torch", "numpy"},
    "report": {"records", "judging", "rich"},
    "data": {"torch", *ARITHMETIC},
    "training": {"uniphd", "data", "records", "devices", "judging", "subjects", "torch", *ARITHMETIC},
    "running": {"records", "devices", "judging", "backends", "subjects", "measures", "uniphd", "data", "torch", "numpy"},
    "studies": {
        *("records", "devices", "judging", "backends", "uniphd", "subjects", "measures", "report", "data", "training", "running", "torch"),
        *("rich", *ARITHMETIC),
    },
    "saved": {"records", "judging", "report", "studies", *ARITHMETIC},
    "cli": {"records", "judging", "subjects", "report", "training", "running", "studies", "saved", "typer"},
}
# What a room may import beside that inside a function: what has to wait until it is used, or may not be installed.
LATE: dict[str, set[str]] = {
    "vocabulary": {*DOORS},  # the front door opens names of every room
    "devices": {"pynvml"},
    "backends": {"onnx", "onnxruntime", "openvino"},
    "subjects": {"baselines", "efficient", "safetensors", "huggingface_hub"},
    "uniphd": {"baselines", "efficient", "transformers", "tokenizers"},
    "measures": {"fvcore", "thop"},
    "report": {"pandas", "matplotlib"},
    "data": {"PIL", "faster_coco_eval"},
    "training": {"faster_coco_eval", "accelerate", "safetensors", "huggingface_hub"},
    "running": {"PIL"},
    "studies": {"optuna"},
    "cli": {"devices", "data", "rich"},
}


def room_of(module: str) -> str:
    """'humar_bench.report.data' -> 'report', 'torch.nn' -> 'torch', 'humar_bench.args' -> 'vocabulary'."""
    first, *rest = module.split(".")
    if first != "humar_bench":
        return first
    return "vocabulary" if not rest or rest[0] in {*TOP_LEVEL, "__version__"} else rest[0]


def imports_of(source: str, *, types: bool = False) -> list[tuple[str, bool, int]]:
    """(module, whether inside a function, line) of every import that is made when the program runs; with `types`, for type hints too."""
    found: list[tuple[str, bool, int]] = []

    def walk(node: ast.AST, late: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((each.name, late, child.lineno) for each in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"line {child.lineno}: a relative import hides which room it means."
                ours = child.module.partition(".")[0] in OURS
                found.extend((f"{child.module}.{each.name}" if ours else child.module, late, child.lineno) for each in child.names)
            elif isinstance(child, ast.If) and not types and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                walk(ast.Module(child.orelse, []), late)
            elif not isinstance(child, ast.expr):  # most of a file, and an import is a statement
                walk(child, late or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)))

    walk(ast.parse(source), False)
    return found


def wrong_doors(module: str, source: str) -> list[str]:
    """One sentence for every import the table does not allow."""
    room = room_of(module)
    if room not in DOORS:
        return [f"{module} is in no room of the table; give it a room, or add {room!r} to DOORS."]
    allowed = {*DOORS[room], room, "vocabulary"}
    wrong = []
    for imported, late, line in imports_of(source):
        target = room_of(imported)
        if target in sys.stdlib_module_names and imported.split(".")[0] not in OURS:
            continue
        if module == "humar_bench.__main__" and target == "cli":
            continue
        if target not in (allowed | LATE.get(room, set()) if late else allowed):
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
    ("humar_bench.cli.app", "from torch import nn"),
    ("humar_bench.args", "def f():\n    import pandas"),
    ("humar_bench.judging.statistics", "from humar_bench.running import bench"),
    ("humar_bench.measures.params", "from humar_bench.subjects.registry import build"),
    ("humar_bench.measures.params", "import baselines.transformer"),
    ("humar_bench.subjects.registry", "import efficient.transformer"),
    ("baselines.transformer", "from efficient.layers import EfficientLinearAttention"),
    ("efficient.transformer", "class A:\n    from humar_bench.running.bench import benchmark"),
    ("humar_bench.records.record", "try:\n    import torch\nexcept ImportError:\n    torch = None"),
    ("humar_bench.new_room.file", "import os"),
])
def test_the_check_can_fail(module, source):
    assert len(wrong_doors(module, source)) == 1


@pytest.mark.parametrize(("module", "source"), [
    ("humar_bench.report.comparison", "import json, collections.abc\nfrom humar_bench.errors import UsageError"),
    ("humar_bench.subjects.registry", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import triton\ndef f():\n    import torch"),
    ("efficient.transformer", "import torch.nn.functional\nfrom humar_bench.skeleton.layers import MLP"),
    ("humar_bench.judging.statistics", "from statistics import median"),
])
def test_the_check_lets_the_right_ones_through(module, source):
    assert not wrong_doors(module, source)


def test_the_top_level_is_the_vocabulary_and_rooms():
    files = {path.stem for path in (ROOT / "humar_bench").glob("*.py")}
    assert files == TOP_LEVEL, "a new file at the top level: which room is it?"
    rooms = {path.name for path in (ROOT / "humar_bench").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms | {"vocabulary", "baselines", "efficient"} == set(DOORS)
    assert len(DOORS) <= 18


def test_a_room_lists_only_rooms_above_it_in_the_table():
    order = list(DOORS)
    for room, doors in DOORS.items():
        assert not doors & set(order[order.index(room):]), room


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Every group of files that reach each other by imports (strongly connected, Tarjan 1972), however late the import is made."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node):]
            del stack[stack.index(node):]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def graph_of(sources: dict[str, str]) -> dict[str, set[str]]:
    """File -> the files of ours it imports. A package's front file and its own files are one door: they are not counted as a circle."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        named = {imported for imported, _, _ in imports_of(source, types=True)}
        files = {next((each for each in (name, name.rpartition(".")[0]) if each in sources), "") for name in named}
        graph[module] = {each for each in files if each and each != module}
    return graph


def test_no_two_files_import_each_other_in_a_circle():
    sources = {module: path.read_text(encoding="utf-8") for module, path in modules().items() if module != "humar_bench"}
    assert circles(graph_of(sources)) == []


def test_the_check_of_circles_can_fail():
    late = "def f():\n    from humar_bench.a.x import g"
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from humar_bench.a.z import Z"
    sources = {"humar_bench.a.x": "from humar_bench.a.y import f", "humar_bench.a.y": late, "humar_bench.a.z": "import os"}
    assert circles(graph_of(sources)) == [["humar_bench.a.x", "humar_bench.a.y"]]
    assert circles(graph_of({**sources, "humar_bench.a.y": "", "humar_bench.a.z": "import humar_bench.a.x", "humar_bench.a.x": typed}))
    assert circles(graph_of({"humar_bench.a.x": "from humar_bench.a import y", "humar_bench.a.y": ""})) == []


def names_all(source: str) -> list[str] | None:
    """The literal `__all__` of a file, None where there is none or it is computed."""
    for node in ast.parse(source).body if "__all__" in source else ():
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
