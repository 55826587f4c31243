"""The numbers of the lines between students: what lies on them, and how far it rises above both ends."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dotkd.errors import BadInput
from dotkd.report.measured import Measured
from dotkd.runs import ANALYSIS

Numbers = npt.NDArray[np.float64]
WORSE = {"task": 1.0, "distill": 1.0, "accuracy": -1.0}
"""What is measured on a line, and the sign of getting worse."""


@dataclass(frozen=True)
class Lines:
    """The lines that lead to an arm from the arm ``start``; ``values`` maps a measure to ``[lines, steps]``.

    A number that is not known is NaN; measures without any are absent. ``paired`` lines are between runs
    with the same seed, which began alike; others are apart from the start, and no mean mixes the two.
    """

    start: str
    arm: str
    paired: bool
    steps: Numbers
    values: Mapping[str, Numbers]

    @property
    def whose(self) -> str:
        """Whether the seeds are the same, in words that follow the name of an arm."""
        return "with the same seed" if self.paired else "with another seed"

    def barriers(self, measure: str) -> Numbers:
        r"""Give, for each line, how far the measure gets worse than a straight line between its ends.

        .. math::
            \max_t \; \pm \big( f(t) - (1 - t) f(0) - t f(1) \big)

        with t from the first step to the last one, scaled to [0, 1], and the sign that makes worse positive:
        the barrier of Entezari, Sedghi, Saukh and Neyshabur, ICLR 2022, arXiv 2110.06296.

        Args:
            measure: ``"task"``, ``"distill"`` or ``"accuracy"``.

        Returns:
            ``[lines]``, at least 0, since both ends count; NaN where a number is not known.
        """
        values = self.values[measure]
        part = (self.steps - self.steps[0]) / (self.steps[-1] - self.steps[0])
        straight = values[:, :1] * (1 - part) + values[:, -1:] * part
        above: Numbers = (WORSE[measure] * (values - straight)).max(axis=1)
        return np.maximum(above, 0.0)


def lines_of(found: Mapping[str, Sequence[Measured]]) -> list[Lines]:
    """Sort the lines by where they lead from and to.

    Args:
        found: name of an arm -> its analysed runs.

    Returns:
        A pair of arms each, those of one start together, and of these the paired ones first.

    Raises:
        BadInput: if lines have different steps, for then no mean over them is right.
    """
    sorted_by: dict[tuple[str, bool, str], list[Measured]] = {}
    first = None
    for name, runs in found.items():
        for run in runs:
            line = run.analysis.interpolation
            if line is None or len(line.steps) < 2:
                continue
            first = first or run
            expected = first.analysis.interpolation
            if expected is None or line.steps != expected.steps:
                raise BadInput(
                    f"{run.run.path / ANALYSIS}: broken: interpolation.steps differ from those of "
                    f"{first.run.path / ANALYSIS}"
                )
            sorted_by.setdefault((line.arm, line.seed == run.run.seed, name), []).append(run)
    starts = list(dict.fromkeys(start for start, _, _ in sorted_by))
    keys = sorted(sorted_by, key=lambda key: (starts.index(key[0]), not key[1]))
    return [_lines(*key, sorted_by[key]) for key in keys]


def _lines(start: str, paired: bool, arm: str, runs: Sequence[Measured]) -> Lines:
    lines = [run.analysis.interpolation for run in runs if run.analysis.interpolation]
    values = {}
    for measure in WORSE:
        rows = [getattr(line, measure) for line in lines]
        known = [row for row in rows if row is not None]
        if known:
            values[measure] = np.array(known, dtype=float)  # None becomes NaN
    return Lines(start, arm, paired, np.array(lines[0].steps), values)


def finite(values: Numbers) -> list[float]:
    """Give the numbers that are known."""
    return [float(value) for value in values if math.isfinite(value)]
