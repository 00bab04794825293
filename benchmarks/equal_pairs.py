"""How often does `humar-bench fps` call an architecture different from itself? Live, on this machine, through the command line.

    python benchmarks/equal_pairs.py results/cpu-equal-pairs --comparisons 60

Each comparison builds one architecture twice, as `one` and as `two`, original and efficient in turn, with a seed of its own, and takes
about 20 seconds. A line of comparisons.csv is on disk before the next begins; a second call goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from humar_bench.studies.calibrate.equal_pairs import ARCHITECTURES, COLUMNS, COPIED, NAME, PAGE, command, read_rows, summary


def compare_once(seed: int) -> dict[str, object]:
    """One comparison in a process of its own, as a user would make it."""
    start_s = time.monotonic()
    typed = command(seed)[1:]
    started = [sys.executable, "-c", "import sys; from humar_bench.cli import main; sys.exit(main(sys.argv[1:]))", *typed]
    done = subprocess.run(started, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command(seed))} ended with {done.returncode}: {done.stderr.strip()}")
    told = json.loads(done.stdout)
    found = {name: told["fps"]["two"][name] for name in COPIED}
    found["machine"] = f"{told['environment']['device_label']}, torch {told['environment']['torch']}"
    name = ARCHITECTURES[seed % len(ARCHITECTURES)]
    return {"seed": seed, "architecture": name, "seconds": round(time.monotonic() - start_s, 1), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--comparisons", type=int, default=60)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    rows = read_rows(asked.folder)
    with (asked.folder / NAME).open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not rows:
            writer.writeheader()
        for seed in range(len(rows), asked.comparisons):
            writer.writerow(row := compare_once(seed))
            file.flush()
            print(*row.values(), flush=True)
    (asked.folder / PAGE).write_text(summary(read_rows(asked.folder)), encoding="utf-8")


if __name__ == "__main__":
    main()
