"""What the README's commands take on a clean clone of this commit: `python -m benchmarks.commands`. It takes as long as they do.

Each line they print is shown with the seconds since the command began. The times go to `results/commands.json`, from which the README has
them. A command that fails ends it, and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from humar_bench.devices.device import CpuDevice
from humar_bench.report import write_text

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("make bench", "make test")


def run(command: str, folder: Path, say: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> float:
    """Run a command of the shell in a folder and pass on what it prints, stamped. Returns its seconds; raises SystemExit where it fails."""
    start_s = now()
    with subprocess.Popen(command, shell=True, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            say(f"[{now() - start_s:7.1f} s] {line.rstrip()}")
    if process.returncode:
        raise SystemExit(f"{command} ended with exit code {process.returncode}; nothing was written.")
    return now() - start_s


def measure(commands: Sequence[str], source: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Clone `source` at its commit into a folder of its own and run the commands there, one after the other."""
    with tempfile.TemporaryDirectory(prefix="humar-bench-clone-") as place:
        clone = Path(place) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(source), str(clone)], check=True)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, check=True, capture_output=True, text=True).stdout.strip()
        took = []
        for command in commands:
            say(f"$ {command}")
            took.append({"command": command, "seconds": round(run(command, clone, say), 1)})
    return {"machine": f"{CpuDevice().label}, {os.cpu_count()} cores", "commit": commit, "commands": took}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default=str(ROOT / "results" / "commands.json"), metavar="FILE", help="Where the times go.")
    asked = parser.parse_args(argv)
    measured = measure(COMMANDS, ROOT, lambda line: print(line, flush=True))
    write_text(asked.out, json.dumps(measured, indent=2, ensure_ascii=False) + "\n")
    print(f"written to {asked.out}; make readme puts it into the README.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
