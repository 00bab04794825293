"""What there is: list and env."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass

from humar_bench.args import BUILT_IN, WORKLOADS, ModelArgs, RunArgs
from humar_bench.cli.app import command
from humar_bench.errors import EXIT_DONE
from humar_bench.options import DEFAULT_ARCHITECTURES, help_of, option
from humar_bench.subjects.registry import use_of


@command("list")
def list_() -> int:
    """List architectures, what each makes of every shared argument, and workloads.

    \b
    Example:
      humar-bench list
    """
    from humar_bench.report import make_console, print_table
    from humar_bench.table import Column, Table

    def words(*keys: str) -> tuple[Column, ...]:
        return tuple(Column(key, text=True) for key in keys)

    architectures = [{"architecture": name, "builder": spec} for name, spec in BUILT_IN.items()]
    architectures += [
        {"architecture": "[NAME=]package.module:builder", "builder": "your own, from an installed module"},
        {"architecture": "[NAME=]path/file.py:builder", "builder": "your own, from a file"},
    ]
    arguments = [
        {"argument": each.name, "default": str(each.default), **{name: use_of(each.name, name) for name in DEFAULT_ARCHITECTURES}}
        for each in dataclasses.fields(ModelArgs)
    ]
    workloads = []
    for name, make in WORKLOADS.items():
        work = make()
        sizes = work.sizes_text.replace(",", ", ")
        workloads.append({"workload": name, "batch": work.batch, "queries": work.num_queries, "feature maps": sizes})
    console = make_console(sys.stdout)
    feet = ("Set one with --set NAME=VALUE or --args FILE.",)
    for table in (
        Table("architectures", "Architectures", words("architecture", "builder"), tuple(architectures)),
        Table("arguments", "Shared arguments", words("argument", "default", *DEFAULT_ARCHITECTURES), tuple(arguments), feet),
        Table(
            "workloads", "Workloads", (*words("workload"), Column("batch"), Column("queries"), *words("feature maps")), tuple(workloads)
        ),
    ):
        print_table(table, console)
    return EXIT_DONE


@dataclass(frozen=True)
class EnvOptions:
    """What only `env` asks."""

    device: str = option(help_of(RunArgs, "device"), default="auto", metavar="NAME")
    json: bool = option("Print JSON.", default=False)


@command("env", EnvOptions)
def env(options: EnvOptions) -> int:
    """Print the machine, the device and the versions that every record carries.

    \b
    Example:
      humar-bench env
      humar-bench env --json
    """
    RunArgs(device=options.device)
    from humar_bench.devices.environment import environment
    from humar_bench.devices.opening import open_device
    from humar_bench.records.record import json_text
    from humar_bench.report import make_console, print_table
    from humar_bench.table import Column, Table

    facts = environment(open_device(options.device))
    if options.json:
        print(json_text(facts, indent=2))
        return EXIT_DONE
    packages = facts.pop("packages")
    rows = [{"fact": name, "value": value} for name, value in {**facts, **packages}.items() if value is not None]
    columns = (Column("fact", text=True), Column("value", text=True))
    print_table(Table("environment", "Environment", columns, tuple(rows)), make_console(sys.stdout))
    return EXIT_DONE
