"""Stands in for humar_bench.running.worker in tests/running/test_resume.py: no torch, answers with prepared values,
logs each job it begins and dies with its parent."""

import ctypes
import json
import os
import random
import signal
import sys
import time

ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, as the real worker does
request = json.load(sys.stdin)
if os.getppid() != request["parent"]:
    sys.exit(1)
environment = {"python": "3", "device": "cpu"}


def log(rows):
    with open(os.environ["JOBS_LOG"], "a") as file:
        file.write(json.dumps(rows) + "\n")


def tell(**event):
    os.write(request["events"], json.dumps(event).encode() + b"\n")


def leave(reply):
    with open(request["reply"] + ".part", "w") as file:
        json.dump(reply, file)
    os.replace(request["reply"] + ".part", request["reply"])
    sys.exit()


with open(os.environ["JOBS_VALUES"]) as file:
    values = json.load(file)
if request["measure"] == "count":
    items = [(each["measure"], each["architecture"]["name"]) for each in request["items"]]
    if rows := [(measure, name, 0) for measure, name in items if measure != "peak"]:
        log(rows)
    for index, (measure, name) in enumerate(items):
        tell(stage="count", architecture=name, item=index)
        measured = {"peak": None, "method": "made up"} if measure == "peak" else values[measure][name]
        result = {"status": "ok", "kind": "", "reason": "", "built": {}, "measured": measured}
        time.sleep(random.random() * 0.01)
        tell(stage="counted", architecture=name, item=index, result=result, environment=environment)
    leave({"environment": environment})
names = [each["name"] for each in request["architectures"]]
log([(request["measure"], name, request["process"]) for name in names])
values = values[request["measure"]]
chance = random.Random(f"{request['process']}")
factor = chance.uniform(0.97, 1.03)
results = {}
for name in names:
    tell(stage="measure", architecture=name)
    measured = dict(values[name.removesuffix(" (again)")], process=request["process"], child=f"child-{request['process']}")
    for clock in ("wall_s", "cpu_s"):
        if clock in measured:
            own = chance.uniform(0.999, 1.001)
            measured[clock] = [factor * own * each for each in measured[clock]]
    results[name] = {"status": "ok", "kind": "", "reason": "", "built": {}, "measured": measured}
time.sleep(random.random() * 0.02)  # so that the moments of a kill differ
leave({"environment": environment, "results": results})
