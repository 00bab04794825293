"""The child process that measures the machine's own ceilings, with the device, threads and dtype of the forwards they are held against.

Request: run, events. Reply: environment and a result, or usage_error.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch

from humar_bench.args import RunArgs
from humar_bench.devices.environment import environment
from humar_bench.devices.opening import open_device
from humar_bench.errors import UsageError
from humar_bench.measures.ceilings import measure_ceilings
from humar_bench.records.record import MACHINE, plain
from humar_bench.running.task import failure, success
from humar_bench.running.worker import serve


def answer(request: dict[str, Any]) -> dict[str, Any]:
    run = RunArgs(**request["run"])
    if run.threads:
        torch.set_num_threads(run.threads)

    def hear(said: str) -> None:
        if request.get("events") is not None:
            os.write(request["events"], json.dumps({"stage": said, "architecture": ""}).encode() + b"\n")

    try:
        device = open_device(run.device)
        conditions = environment(device)
        result = success(None, measure_ceilings(device, run.dtype, hear=hear).measured())
    except UsageError as error:
        return {"usage_error": str(error)}
    except Exception as error:
        return {"environment": environment(), "result": failure(error, MACHINE)}
    return {"environment": conditions, "result": plain(result)}


if __name__ == "__main__":
    sys.exit(serve(answer))
