"""Live comparisons of an architecture with itself: what a folder of them holds, and the page that is made from it.

`benchmarks/equal_pairs.py` makes them through the command line; one line of comparisons.csv a comparison.
"""

from __future__ import annotations

import csv
import io
import os
import shlex
from pathlib import Path

from humar_bench.errors import UsageError
from humar_bench.reading import read_bytes
from humar_bench.studies.calibrate.error_rates import upper_bound

ARCHITECTURES = ("original", "efficient")
OPTIONS = ("--workload", "tiny", "--threads", "1", "--processes", "5", "--budget", "4", "--device", "cpu")
COPIED = ("verdict", "ratio", "ratio_low", "ratio_high", "wall_ratio", "wall_ratio_low", "wall_ratio_high", "processes", "rounds", "why")
COLUMNS = ("seed", "architecture", "seconds", *COPIED, "machine")
DIFFERENT = ("faster", "slower")
NAME, PAGE = "comparisons.csv", "report.md"


def command(seed: int) -> list[str]:
    name = ARCHITECTURES[seed % len(ARCHITECTURES)]
    return ["humar-bench", "fps", "--arch", f"one={name}", "--arch", f"two={name}", *OPTIONS, "--seed", str(seed), "--json", "-", "--quiet"]


def summary(rows: list[dict[str, str]]) -> str:
    """What report.md says of these comparisons."""
    verdicts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in ("same", "undecided", "invalid", *DIFFERENT)}
    different = sum(verdicts[each] for each in DIFFERENT)
    told = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    seconds = sorted(float(row["seconds"]) for row in rows)
    machines = "; ".join(sorted({row["machine"] for row in rows}))
    return (
        f"# {len(rows)} comparisons of an architecture with itself\n\n{different} of {len(rows)} called different "
        f"(the true rate is at most {100 * upper_bound(different, len(rows)):.1f} %, exact bound at 95 %): {told}.\n\n"
        f"- Each as `{shlex.join(command(0))}`, original and efficient in turn, `--seed` counting up; the median took "
        f"{seconds[len(seconds) // 2]:.0f} s.\n- Measured on: {machines}.\n"
        f"- Made by: python benchmarks/equal_pairs.py DIR --comparisons {len(rows)}\n"
    )


def read_rows(folder: Path) -> list[dict[str, str]]:
    """The comparisons of a folder, in the order they were made; none where there is no file yet."""
    path = folder / NAME
    if not os.path.exists(path):
        return []
    try:
        return list(csv.DictReader(io.StringIO(read_bytes(path).decode("utf-8"), newline="")))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}; put the file back.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is no CSV ({error}); put the file back.") from None
