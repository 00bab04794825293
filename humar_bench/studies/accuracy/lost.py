"""Runs that were lost in training: one that hardly learned spreads the logarithms more than all the others.

They count in every verdict, since whoever trains once may lose that run too. Beside it stands what those keep that learned, without a
verdict: which runs these are is known only after they ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from humar_bench.table import joined

LOST_BELOW = 0.5  # of the median of all runs of the same architecture


def lost_of(accuracy: Mapping[int, float]) -> dict[int, float]:
    """Of the runs of one architecture, seed -> accuracy, those that were lost."""
    least = LOST_BELOW * float(np.median(list(accuracy.values()))) if accuracy else 0.0
    return {seed: each for seed, each in accuracy.items() if each < least}


def lost_feet(runs: Mapping[str, Mapping[int, float]], reference: str, *, whole: bool = True) -> Iterable[str]:
    """Sentences for below the table; none where no run was lost. `runs` has accuracies by seed, the control's among the reference's; what
    is kept is said of a `whole` study alone."""
    lost = {name: found for name, own in runs.items() if (found := lost_of(own))}
    for name, found in lost.items():
        said = joined([f"{each:.3f} with seed {seed}" for seed, each in sorted(found.items())])
        yield (
            f"{name}: {len(found)} of {len(runs[name])} runs lost in training, below half of the median ({said}); they count as others do."
        )
    learned = {name: [each for seed, each in own.items() if seed not in lost.get(name, {})] for name, own in runs.items()}
    if whole and lost and all(own and min(own) > 0 for own in learned.values()):
        means = {name: float(np.exp(np.log(own).mean())) for name, own in learned.items()}
        said = joined([f"{name} {100 * means[name] / means[reference]:.1f} %" for name in runs if name != reference])
        if said:
            yield f"Of the runs that learned alone, which is no verdict: {said} of {reference}."
