"""How often is the verdict on retention wrong, and how many seeds and pictures does it take? Made-up trainings with a known truth.

    python benchmarks/retention.py --write

Writes both tables into docs/accuracy.md, between its two marks; without --write they are printed. One core, about 3 minutes; the same
tables every time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from humar_bench.judging.statistics import binomial_upper
from humar_bench.studies.accuracy.made_up import PICTURES, SEEDS, SPREADS, TRUTHS, Rates, table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "accuracy.md"
BEGIN, END = "<!-- made by benchmarks/retention.py: begin -->", "<!-- made by benchmarks/retention.py: end -->"
DECIDED = 0.8  # of studies: what "enough" means


def rates_table(rows: Sequence[Sequence[Rates]]) -> str:
    """Markdown: one row a (spread, pictures, seeds)."""
    head = ["spread over seeds", "pictures", "seeds", *(f"truth {100 * truth:.0f} %: keeps / undecided / loses" for truth in TRUTHS)]
    head += ["wrong at worst", "interval holds the truth", "plain bootstrap's"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        first = row[0]
        said = [f"{_whole(each.keeps)} / {_whole(each.undecided)} / {_whole(each.loses)}" for each in row]
        worst = [f"{100 * max(each.wrong for each in row):.1f}"]
        worst += [f"{100 * min(getattr(each, name) for each in row):.0f}" for name in ("covered", "covered_bootstrap")]
        lines.append([f"{100 * first.spread:.0f}", f"{first.pictures:,}", str(first.seeds), *said, *worst])
    return _markdown(lines)


def needed_table(rows: Sequence[Sequence[Rates]]) -> str:
    """Markdown: the fewest seeds at which `DECIDED` of the studies of a truth end in its verdict."""
    wanted = {1.0: "keeps", 0.98: "keeps", 0.9: "loses"}
    head = ["spread over seeds", "pictures", *(f"truth {100 * truth:.0f} %, {word}" for truth, word in wanted.items())]
    lines = [head, ["---"] * len(head)]
    for spread, pictures in dict.fromkeys((row[0].spread, row[0].pictures) for row in rows):
        own = [row for row in rows if (row[0].spread, row[0].pictures) == (spread, pictures)]
        cells = [f"{100 * spread:.0f}", f"{pictures:,}"]
        for truth, word in wanted.items():
            enough = [row[0].seeds for row in own if next(getattr(each, word) for each in row if each.retention == truth) >= DECIDED]
            cells.append(str(min(enough)) if enough else f"more than {max(row[0].seeds for row in own)}")
        lines.append(cells)
    return _markdown(lines)


def _whole(share: float) -> str:
    return f"{100 * share:.0f}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text_of(rows: Sequence[Sequence[Rates]]) -> str:
    """Both tables with the sentence that says what they are."""
    trials = rows[0][0].trials
    highest = max(each.wrong for row in rows for each in row)
    said = (
        f"All numbers but pictures and seeds are percent of {trials:,} made-up studies. The worst rate of wrong verdicts "
        f"is {100 * highest:.1f} %; with {trials:,} studies it is at most {100 * binomial_upper(round(highest * trials), trials):.1f} % "
        "(95 %)."
    )
    needed = f"Seeds of each arm with which at least {100 * DECIDED:.0f} % of the studies end in the right verdict:"
    return f"{said}\n\n{rates_table(rows)}\n\n{needed}\n\n{needed_table(rows)}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--trials", type=int, default=2000)
    asked = parser.parse_args(argv)
    rows = list(table(spreads=SPREADS, seeds=SEEDS, pictures=PICTURES, trials=asked.trials))
    made = text_of(rows)
    if not asked.write:
        print(made)
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
