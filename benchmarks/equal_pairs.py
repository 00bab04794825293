"""How often does `humar-bench fps` call an architecture different from itself? Live, on this machine, through the command line.

    python benchmarks/equal_pairs.py results/cpu-equal-pairs --comparisons 60

Each comparison builds one architecture twice, as `one` and as `two`, original and efficient in turn, with a seed of its own, and takes
about 20 seconds. A line of comparisons.csv is on disk before the next begins; a second call goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import csv
import io
import shlex
import subprocess
import sys
import time
from pathlib import Path

from humar_bench.error_rates import upper_bound

ARCHITECTURES = ("original", "efficient")
OPTIONS = ["--workload", "tiny", "--threads", "1", "--processes", "5", "--budget", "4", "--device", "cpu"]
COPIED = ("verdict", "ratio", "ratio_low", "ratio_high", "wall_ratio", "wall_ratio_low", "wall_ratio_high", "processes", "rounds", "reason")
COLUMNS = ("seed", "architecture", "seconds", *COPIED)
DIFFERENT = ("faster", "slower")


def command(seed: int) -> list[str]:
    name = ARCHITECTURES[seed % len(ARCHITECTURES)]
    return ["humar-bench", "fps", "--arch", f"one={name}", "--arch", f"two={name}", *OPTIONS, "--seed", str(seed), "--csv", "-", "--quiet"]


def compare_once(seed: int) -> dict[str, object]:
    """One comparison in a process of its own, as a user would make it."""
    start_s = time.monotonic()
    typed = command(seed)[1:]
    started = [sys.executable, "-c", "import sys; from humar_bench.cli import main; sys.exit(main(sys.argv[1:]))", *typed]
    done = subprocess.run(started, capture_output=True, text=True, check=False)
    rows = {row["architecture"]: row for row in csv.DictReader(io.StringIO(done.stdout))}
    if "two" not in rows:
        raise SystemExit(f"{shlex.join(command(seed))} ended with {done.returncode}: {done.stderr.strip()}")
    found = {name: rows["two"][name] for name in COPIED}
    return {"seed": seed, "architecture": ARCHITECTURES[seed % 2], "seconds": round(time.monotonic() - start_s, 1), **found}


def summary(rows: list[dict[str, str]]) -> str:
    verdicts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in ("same", "undecided", "invalid", *DIFFERENT)}
    different = sum(verdicts[each] for each in DIFFERENT)
    most = upper_bound(different, len(rows))
    told = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    return (
        f"# {len(rows)} comparisons of an architecture with itself\n\n{different} of {len(rows)} called different "
        f"(the true rate is at most {100 * most:.1f} %, exact bound at 95 %): {told}.\n\n"
        f"Each as `{shlex.join(command(0))}`, original and efficient in turn, `--seed` counting up; "
        f"made by `python benchmarks/equal_pairs.py DIR --comparisons {len(rows)}`.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--comparisons", type=int, default=60)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    path = asked.folder / "comparisons.csv"
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not rows:
            writer.writeheader()
        for seed in range(len(rows), asked.comparisons):
            writer.writerow(row := compare_once(seed))
            file.flush()
            print(*row.values(), flush=True)
    (asked.folder / "report.md").write_text(summary(list(csv.DictReader(path.open()))))


if __name__ == "__main__":
    main()
