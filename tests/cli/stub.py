"""What stands for `benchmark` while command lines are tried, and how one ends."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

from humar_bench import cli
from humar_bench.records.record import Run
from tests.golden.records import component_time, failed, flops, fps, memory, params

ROOT = Path(__file__).resolve().parents[2]


class Stub:
    """Stands for `benchmark`: remembers the call, answers with made-up records and hands them to the sink as it goes."""

    def __init__(self) -> None:
        self.calls: list[SimpleNamespace] = []
        self.raises: BaseException | None = None
        self.fails: tuple[str, ...] = ()

    def __call__(self, architectures, args, workload, measures, run, sink=None, progress=None, **more):
        self.calls.append(SimpleNamespace(
            architectures=architectures, args=args, workload=workload, measures=measures, run=run, sink=sink, progress=progress, **more
        ))
        asked = {"asked": dataclasses.asdict(args), "workload": dataclasses.asdict(workload), "command": more["command"]}
        make = {
            "params": params, "flops": flops, "memory": memory, "component_time": component_time,
            "fps": lambda name, **given: fps(name, 0, **given),
        }
        records = []
        for measure in measures:
            for each in architectures:
                record = failed(measure, each.name, **asked) if each.name in self.fails else make[measure](each.name, **asked)
                if "batch" in (record.measured or {}):
                    record = dataclasses.replace(record, measured={**record.measured, "batch": workload.batch}, id="")
                records.append(record)
                if sink is not None:
                    sink.write(record)
                if self.raises is not None:
                    raise self.raises
        return Run(tuple(records))


def ends(capsys, *argv: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command line."""
    code = cli.main([str(each) for each in argv])
    printed = capsys.readouterr()
    return code, printed.out, printed.err
