"""The child process of `humar-bench search` that looks at designs; several share one journal.

Request: journal, args, values, workload, designs, bounds, process, seed, events. Reply: what it did, or usage_error or error.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

import torch._dynamo  # noqa: F401 - kernels of the meta device load it on first use; here it is no part of what is timed

from humar_bench.errors import HumarBenchError, UsageError, one_line
from humar_bench.running.worker import serve
from humar_bench.studies.search.explore import explore, plain, read_request


def answer(request: dict[str, Any]) -> dict[str, Any]:
    space, work = read_request(request)

    def tell(share: float) -> None:
        if request.get("events") is not None:
            with contextlib.suppress(OSError):  # a parent that is gone is no reason to fail
                os.write(request["events"], json.dumps({"stage": "looking", "architecture": "", "share": share}).encode() + b"\n")

    try:
        return {"explored": plain(explore(
            request["journal"], space, work, request["designs"], bounds=request["bounds"], process=request["process"],
            seed=request["seed"], tell=tell,
        ))}
    except UsageError as error:
        return {"usage_error": str(error)}
    except Exception as error:
        return {"error": str(error) if isinstance(error, HumarBenchError) else f"looking at designs raised {one_line(error)}."}


if __name__ == "__main__":
    sys.exit(serve(answer))
