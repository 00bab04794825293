"""Which files run: humar_bench, baselines and efficient of one folder, whatever the current folder holds.

Children are started through this file (`child_command`): Python loads it by its path before it looks anything up in a folder of the
user's. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

OWN = ("humar_bench", "baselines", "efficient")
FOLDER = str(Path(__file__).resolve().parents[2])
MOST_ENTRIES = 10_000  # of a folder that is looked through for names that would have been picked


class OwnPackages:
    """A finder (for `sys.meta_path`) of this project's packages in its own folder, and of nothing else."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [FOLDER]) if path is None and name in OWN else None


def child_command(module: str) -> tuple[str, ...]:
    """What runs a module of ours as a program with the files this process has; without -P Python would put the current folder first."""
    return (sys.executable, "-P", __file__, module)


# Threads that wait for one another look for so long before they sleep: about a millisecond. libgomp's own 300,000 are for a machine that
# is ours alone; beside other work a forward of two threads took twice the time and twice the CPU time (docs/design-log.md).
SPINS = {"GOMP_SPINCOUNT": "20000"}


def child_environment() -> dict[str, str]:
    """This process's environment for a child: the current folder is not on its module path, and last where PYTHONPATH names it."""
    given = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    path = [*(each for each in given if not is_current(each)), *(each for each in given if is_current(each))]
    others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    waits = {} if "OMP_WAIT_POLICY" in os.environ else SPINS
    return {**waits, **others, "PYTHONSAFEPATH": "1", **({"PYTHONPATH": os.pathsep.join(path)} if path else {})}


def is_current(folder: str) -> bool:
    """Whether a folder is the current one, by whatever name."""
    with contextlib.suppress(OSError, ValueError):
        return os.path.samefile(folder or ".", ".")
    return False


def use_own() -> None:
    """From now on this process imports our packages from our own folder; whatever else lies there comes after all that is installed."""
    if OwnPackages not in sys.meta_path:
        sys.meta_path.insert(0, OwnPackages)
    if FOLDER not in sys.path:
        sys.path.append(FOLDER)


@contextlib.contextmanager
def own_first() -> Iterator[None]:
    """Around one import of ours in somebody else's process: afterwards its imports are found as before."""
    sys.meta_path.insert(0, OwnPackages)
    try:
        yield
    finally:
        sys.meta_path.remove(OwnPackages)


def stranger(package: str) -> str:
    """Where the package that is loaded under one of our names lies, when it is not ours; empty where it is ours or not loaded."""
    loaded = sys.modules.get(package)
    if loaded is None:
        return ""
    where = getattr(loaded, "__file__", None) or next(iter(getattr(loaded, "__path__", ())), "")
    return "" if where and Path(where).resolve().is_relative_to(Path(FOLDER) / package) else where or "an unknown place"


def shadowed(folder: str) -> list[str]:
    """Names in a folder (torch.py, efficient/) that are those of a module we run from elsewhere: Python alone would take them first.

    The standard library's names, what is installed, and our own packages. A folder without an __init__.py never comes first.
    """
    with contextlib.suppress(OSError):
        elsewhere = _path_without(folder)
        shown = filter(None, (_module_shown(each) for each, _ in zip(os.scandir(folder), range(MOST_ENTRIES), strict=False)))
        return sorted(each for each in shown if _is_taken(each.rstrip("/").partition(".")[0], folder, elsewhere))
    return []


def _module_shown(entry: os.DirEntry) -> str:
    """'torch.py', 'efficient/': the entry where an import would take it for a module, else nothing."""
    name = entry.name.partition(".")[0]
    if not name.isidentifier() or name.startswith("__"):
        return ""
    if entry.is_dir():
        return f"{name}/" if name == entry.name and os.path.exists(os.path.join(entry.path, "__init__.py")) else ""
    return entry.name if entry.name[len(name):] in (".py", ".pyc", *EXTENSION_SUFFIXES) else ""


def _path_without(folder: str) -> list[str]:
    """Where installed modules lie: the module path without a folder, and without the standard library, whose tests nobody imports."""
    standard = os.path.dirname(os.__file__)
    return [each for each in sys.path if each not in ("", standard) and os.path.isdir(each) and not os.path.samefile(each, folder)]


def _is_taken(name: str, folder: str, elsewhere: list[str]) -> bool:
    if name in OWN:
        return not os.path.samefile(folder, FOLDER)
    spec = None if name in sys.stdlib_module_names else PathFinder.find_spec(name, elsewhere)
    return name in sys.stdlib_module_names or (spec is not None and spec.origin is not None)  # without an origin it is a namespace


if __name__ == "__main__":
    import runpy

    use_own()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
