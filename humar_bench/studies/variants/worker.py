"""The child process that counts whole models part by part: request and events of `running.cost_worker`, on workloads of whole models."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from humar_bench.args import BACKBONES, TEXT_ENCODERS
from humar_bench.devices.device import CpuDevice
from humar_bench.devices.environment import environment
from humar_bench.records.record import plain
from humar_bench.running.task import Task, failure, success
from humar_bench.running.worker import serve
from humar_bench.studies.variants.parts import Parts


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Count item by item; items that differ in backbone, text encoder and architecture alone share their parts."""
    facts, parts, results = environment(CpuDevice()), {}, {}
    for index, item in enumerate(request["items"]):
        task = Task.read({
            **{name: request.get(name) for name in ("run", "events")}, "measure": item["measure"], "architectures": [item["architecture"]],
            **request["works"][item["work"]],
        })
        [architecture], work = task.architectures, task.workload
        task.tell("count", architecture.name, item=index)
        common = (task.args, dataclasses.replace(work, backbone=BACKBONES[0], text_encoder=TEXT_ENCODERS[0]))
        if common not in parts:
            parts[common] = Parts(*common, dtype=task.dtype, seed=task.run.seed)
        if (whole := (architecture, task.args, work)) not in results:
            results = {whole: costs_of(task, parts[common])}
        task.tell("counted", architecture.name, item=index, result=plain(results[whole][item["measure"]]), environment=facts)
    return {"environment": facts}


def costs_of(task: Task, parts: Parts) -> dict[str, Any]:
    """Measure -> result of one whole model."""
    [architecture], work = task.architectures, task.workload
    try:
        found = parts.costs(architecture, work.backbone, work.text_encoder)
        model = parts.built(architecture, work.backbone)
    except Exception as error:
        return dict.fromkeys(("params", "flops", "memory"), failure(error, architecture.name))
    return {measure: success(model, measured) for measure, measured in found.items()}


if __name__ == "__main__":
    sys.exit(serve(answer))
