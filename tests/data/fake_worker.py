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


reply = lambda: {"environment": {"python": "3"}, "results": results}  # noqa: E731
counting = request.get("measure") == "count"
jobs = request["items"] if counting else request["architectures"]
for index, job in enumerate(jobs):
    each = job["architecture"] if counting else job
    name, does = each["name"], each["spec"].rpartition(":")[2]
    tell(stage="count" if counting else "build", architecture=name, **({"item": index} if counting else {}))
    seconds = 2.0 if does == "wider" else 1.0
    measured = {"process": request.get("process", 0), "plan": request.get("plan"), "spent_s": seconds}
    if request.get("measure") == "component_time":
        times = {"wall_s": [seconds]}
        measured |= {"clocks": ["wall_s"], "rounds": 1, "components": {"frame": times}, "instrumented": times, "plain": times}
        measured |= {"entered": {"frame": 1}, "stamps": 2}
    else:
        measured |= {"wall_s": [seconds / 3] * 3, "cpu_s": [seconds / 3] * 3}
    flops = {"matmul_flops": 2, "second_tier_flops": 0}
    measured |= {"batch": 2, "predicted": request.get("predicted")}
    what = job["measure"] if counting else request.get("measure")
    measured |= {
        "params": {"total": 1, "components": {"frame": 1}}, "flops": {**flops, "components": {"frame": flops}, "operators": []},
        "memory": {"weights_bytes": 4, "peak_bytes": 4, "by_component": {"frame": 4}},
    }.get(what, {})
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
    if does == "spins":
        while True:
            pass
    if does == "half_pair":
        result |= {"status": "failed", "kind": "error", "reason": f"{name} raised \ud800.", "measured": None, "built": {"\udcff": "\ud800"}}
    if does == "chatty":
        print("on standard output", flush=True)
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], pass_fds=(request["events"],))
    if does == "four_outputs":
        tell(stage="timing", architecture="")
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "forges":  # says that another one was running, then dies
        tell(stage="build", architecture=(jobs[0]["architecture"] if counting else jobs[0])["name"])
        os.kill(os.getpid(), signal.SIGKILL)
    if does in json.loads(os.environ.get("FAKE_EVENTS", "{}")):
        os.write(request["events"], json.loads(os.environ["FAKE_EVENTS"])[does].encode("latin-1"))
        time.sleep(5)
    if does == "floods":
        while True:
            os.write(request["events"], (b'{"stage": "x"' + b" " * 4000 + b"}\n") * 16)  # few events, each of nearly the most bytes
    if does == "killed_once" and not os.path.exists(os.environ["FAKE_KILLED"]):
        open(os.environ["FAKE_KILLED"], "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "escapes":
        code = "import os, time; os.setsid(); open(os.environ['FAKE_ESCAPED'], 'w').write(str(os.getpid())); time.sleep(60)"
        subprocess.Popen([sys.executable, "-c", code])
        while not os.path.exists(os.environ["FAKE_ESCAPED"]) or not os.path.getsize(os.environ["FAKE_ESCAPED"]):
            time.sleep(0.01)
    if does == "lies":
        reply = lambda: {"environment": {"python": "2"}, "results": results}  # noqa: E731
    if does in json.loads(os.environ.get("FAKE_REPLIES", "{}")):
        text = json.loads(os.environ["FAKE_REPLIES"])[does]
        reply = lambda text=text: text  # noqa: E731
    results[name] = result
    if counting:
        tell(stage="counted", architecture=name, item=index, result=result, environment={"python": "3"})

made = reply()
if made == "a pipe":
    os.mkfifo(request["reply"])
else:
    with open(request["reply"], "w", encoding="latin-1") as file:
        file.write(made if isinstance(made, str) else json.dumps(made))
