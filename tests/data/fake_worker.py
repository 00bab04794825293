"""Stands in for humar_bench.running.worker in tests of the parent: no torch, each builder's name says what happens."""

import json
import os
import signal
import subprocess
import sys
import time

request = json.load(sys.stdin)
results = {}


def tell(**event):
    os.write(request["events"], json.dumps(event).encode() + b"\n")


counting = request.get("measure") == "count"
jobs = request["items"] if counting else request["architectures"]
for index, job in enumerate(jobs):
    each = job["architecture"] if counting else job
    name, does = each["name"], each["spec"].rpartition(":")[2]
    tell(stage="count" if counting else "build", architecture=name, item=index)
    seconds = 2.0 if does == "wider" else 1.0
    measured = {"process": request.get("process", 0), "plan": request.get("plan"), "spent_s": seconds}
    if request["measure"] == "component_time":
        times = {"wall_s": [seconds]}
        measured |= {"clocks": ["wall_s"], "rounds": 1, "components": {"frame": times}, "instrumented": times, "plain": times}
        measured |= {"entered": {"frame": 1}, "stamps": 2}
    else:
        measured |= {"wall_s": [seconds / 3] * 3, "cpu_s": [seconds / 3] * 3}
    measured |= {"batch": 2, "predicted": request.get("predicted")}
    if counting and job["measure"] == "peak":
        measured = {"peak": None, "method": f"made up for {name}"}
        does = "leaves" if does == "leaves" else "build"  # all others go wrong only when they really run
    result = {"status": "ok", "kind": "", "reason": "", "built": {"does": does}, "measured": measured}
    if does == "raises" or (does == "not_finite" and not name.endswith("(again)")):
        result |= {"status": "failed", "kind": "error", "reason": f"{name} raised.", "measured": None, "built": {}}
    if does == "crashes":
        print("about to crash", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if does == "leaves":
        sys.exit("left on purpose.")
    if does == "hungry":
        print("terminate called after throwing an instance of 'std::bad_alloc'", file=sys.stderr, flush=True)
        os.abort()
    if does == "hangs":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
        time.sleep(30)
    if does == "chatty":
        print("on standard output", flush=True)
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], pass_fds=(request["events"],))
    if does == "four_outputs":
        tell(stage="timing", architecture="")
        os.kill(os.getpid(), signal.SIGKILL)
    results[name] = result
    if counting:
        tell(stage="counted", architecture=name, item=index, result=result, environment={"python": "3"})

with open(request["reply"], "w") as file:
    json.dump({"environment": {"python": "3"}, "results": results}, file)
