"""humar-bench: is this replacement really smaller, faster, lighter, and how sure are we?

The front door. Names resolve when first used, so that importing this package (and `humar-bench --help`) never imports torch.
"""

import os  # this and the next are loaded when Python starts
import sys

_module = sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)].removeprefix("-m").partition(".")[0] == __name__
if _module and not sys.flags.safe_path:
    # `python -m humar_bench`: Python has put the current folder first, and anything there would run instead of what is installed. Before
    # any other import it goes, or to the end where it is our own.
    if __file__.rpartition("humar_bench")[0].rstrip("/\\") == sys.path[0].rstrip("/\\"):
        sys.path.append(sys.path[0])
    del sys.path[0]
if _module or sys.argv and os.path.basename(sys.argv[0]).partition(".")[0] == "humar-bench":
    # As a program: where PYTHONPATH names the current folder, as an empty piece of it does, it comes last.
    sys.path.sort(key=lambda each: os.path.isdir(each or ".") and os.path.samefile(each or ".", "."))

import importlib  # noqa: E402
from typing import Any  # noqa: E402

__version__ = "0.1.0"

_DOORS = {
    "ModelArgs": "humar_bench.args",
    "RunArgs": "humar_bench.args",
    "UniphdArgs": "humar_bench.args",
    "Workload": "humar_bench.args",
    "benchmark": "humar_bench.running.bench",
    "build": "humar_bench.subjects.registry",
    "build_uniphd": "humar_bench.uniphd",
    "compare": "humar_bench.report.comparison",
    "load": "humar_bench.records.record",
    "load_checkpoint": "humar_bench.subjects.checkpoint",
}
__all__ = sorted(_DOORS)


def __getattr__(name: str) -> Any:
    if name not in _DOORS:
        raise AttributeError(f"humar_bench has no {name!r}; it has {', '.join(__all__)}.")
    return getattr(importlib.import_module(_DOORS[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
