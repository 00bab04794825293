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
names = [each["name"] for each in request["architectures"]]
with open(os.environ["JOBS_LOG"], "a") as log:
    log.write(json.dumps([request["measure"], request["process"], names]) + "\n")
with open(os.environ["JOBS_VALUES"]) as file:
    values = json.load(file)[request["measure"]]
chance = random.Random(f"{request['process']}")
factor = chance.uniform(0.97, 1.03)
results = {}
for name in names:
    os.write(request["events"], json.dumps({"stage": "measure", "architecture": name}).encode() + b"\n")
    measured = dict(values[name.removesuffix(" (again)")], process=request["process"], child=f"child-{request['process']}")
    for clock in ("wall_s", "cpu_s"):
        if clock in measured:
            own = chance.uniform(0.999, 1.001)
            measured[clock] = [factor * own * each for each in measured[clock]]
    results[name] = {"status": "ok", "kind": "", "reason": "", "built": {}, "measured": measured}
time.sleep(random.random() * 0.02)  # so that the moments of a kill differ
with open(request["reply"] + ".part", "w") as file:
    json.dump({"environment": {"python": "3", "device": "cpu"}, "results": results}, file)
os.replace(request["reply"] + ".part", request["reply"])
