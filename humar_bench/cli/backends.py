"""`backends`: every architecture through every execution backend in every number type."""

from __future__ import annotations

from dataclasses import dataclass

from humar_bench.args import BACKENDS, DTYPES, RunArgs
from humar_bench.cli.app import command
from humar_bench.cli.shared import files_read, small_batch
from humar_bench.cli.studies import StudyOptions, run_study
from humar_bench.errors import UsageError
from humar_bench.options import Call, Output, Selection, Whole, option
from humar_bench.running.plan import resolve


@dataclass(frozen=True)
class BackendsOptions:
    """Which cells, and how long."""

    backends: tuple[str, ...] = option(
        f"{', '.join(BACKENDS)}; by default all. Repeatable.", default=BACKENDS, metavar="NAME", flags=("--backend",)
    )
    dtypes: tuple[str, ...] = option(
        f"{', '.join(DTYPES)}; by default all. Repeatable.", default=DTYPES, metavar="NAME", flags=("--dtype",)
    )
    seconds: float = option("Seconds for all cells together, process starts included.", default=600.0, flags=("--budget",))
    out: str | None = option("Folder for records, CSV and Markdown; made where missing.", metavar="DIR", flags=("--out", "-o"))

    def __post_init__(self) -> None:
        for name, values, known in (("backend", self.backends, BACKENDS), ("dtype", self.dtypes, DTYPES)):
            for value in values:
                if value not in known:
                    raise UsageError(f"{name} is {value!r}; choose one of {', '.join(known)}.")
        StudyOptions(seconds=self.seconds)

    @property
    def study(self) -> StudyOptions:
        return StudyOptions(time=True, seconds=self.seconds, out=self.out)


@command(
    "backends", Selection, Whole, Call, BackendsOptions, RunArgs, Output,
    leave_out=("reference", "backend", "dtype", "first_look", "control", "min_runs", "max_runs", "budget"),
)
def backends(selection: Selection, whole: Whole, call: Call, options: BackendsOptions, run: RunArgs, output: Output) -> int:
    """Time every backend and number type on this machine: a figure or a reason.

    Each cell is timed in fresh processes of its own, three where the budget allows, and its outputs are held against eager float32.

    \b
    Example:
      humar-bench backends --budget 1200 -o backends
      humar-bench backends --backend eager --backend openvino --dtype float32
      humar-bench backends --whole --backend eager --backend compile --dtype float32
    """
    from humar_bench.devices.opening import open_device
    from humar_bench.studies.backends import matrix

    plan = resolve(small_batch(selection, run, call), run, whole, call)
    kind = open_device(run.device).kind
    return run_study("backends", plan, options.study, output, lambda **given: matrix.measure_matrix(
        plan, kind=kind, backends=options.backends, dtypes=options.dtypes, **given
    ), reads=files_read(selection, call))
