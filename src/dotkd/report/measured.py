"""The numbers of the analyses: means over the seeds of an arm of what was measured on finished runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dotkd.errors import BadInput
from dotkd.report.inputs import Analysis, Attack, Extras, Quality
from dotkd.report.statistics import Estimate, estimate
from dotkd.runs import ANALYSIS, RunRecord

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """A run and its analysis."""

    run: RunRecord
    analysis: Analysis

    @property
    def quality(self) -> Quality:
        """The part about predictions; empty if nothing was measured."""
        return self.analysis.quality or Quality()

    @property
    def robustness(self) -> Mapping[str, Attack | tuple[float | None, ...]]:
        """What is known under each corruption and attack."""
        return self.quality.robustness or {}


@dataclass(frozen=True)
class Bins:
    """Bins [B] of confidence over all seeds of an arm: means over images, and numbers of images."""

    confidence: Numbers
    accuracy: Numbers
    count: Numbers


@dataclass(frozen=True)
class WeakClass:
    """A class that is among the worst for ``seeds`` seeds of an arm, and its accuracy in these."""

    name: str
    seeds: int
    accuracy: Estimate


def measured(groups: Mapping[str, Sequence[RunRecord]], extras: Extras) -> dict[str, list[Measured]]:
    """Sort analyses into arms.

    Args:
        groups: name of an arm -> its runs.
        extras: has the analyses.

    Returns:
        Name of an arm -> its analysed runs; arms without any are left out.
    """
    found = {
        name: [Measured(run, extras.analyses[run.path]) for run in runs if run.path in extras.analyses]
        for name, runs in groups.items()
    }
    return {name: runs for name, runs in found.items() if runs}


def over(runs: Sequence[Measured], read: Callable[[Measured], float | None]) -> Estimate | None:
    """Estimate a number over the runs that have it; nothing if none has."""
    found = [value for run in runs if (value := read(run)) is not None]
    return estimate(found) if found else None


def bins_of(runs: Sequence[Measured]) -> Bins | None:
    """Put the reliability bins of several seeds together.

    Args:
        runs: analysed runs of an arm.

    Returns:
        The bins, nothing if no run has an image in one.

    Raises:
        BadInput: if runs have different numbers of bins.
    """
    tables = [(run, run.quality.reliability) for run in runs if run.quality.reliability]
    sizes = {len(table.count) for _, table in tables}
    if len(sizes) > 1:
        first, other = tables[0], next(one for one in tables if len(one[1].count) != len(tables[0][1].count))
        raise BadInput(
            f"{other[0].run.path / ANALYSIS}: broken: quality.reliability has {len(other[1].count)} bins, "
            f"and that of {first[0].run.path / ANALYSIS} has {len(first[1].count)}"
        )
    rows = np.array(
        [
            [
                (count, count * confidence, count * accuracy)
                if confidence is not None and accuracy is not None
                else (0, 0, 0)
                for confidence, accuracy, count in zip(
                    table.confidence, table.accuracy, table.count, strict=True
                )
            ]
            for _, table in tables
        ],
        dtype=float,
    )
    if not rows.any():
        return None
    count, confidence, accuracy = rows.sum(axis=0).T
    filled = np.maximum(count, 1)
    return Bins(confidence / filled, accuracy / filled, count)


def corruptions(found: Mapping[str, Sequence[Measured]]) -> tuple[str, ...]:
    """Name the corruptions that some run was measured under, in the order of the files."""
    return tuple(
        dict.fromkeys(
            kind
            for runs in found.values()
            for run in runs
            for kind, values in run.robustness.items()
            if not isinstance(values, Attack) and _whole(values)
        )
    )


def strengths(runs: Sequence[Measured], kind: str) -> Numbers:
    """Give the accuracies of an arm under a corruption.

    Args:
        runs: analysed runs of an arm.
        kind: the corruption.

    Returns:
        ``[seeds, strengths]``, of the runs that have every strength; empty if none has.

    Raises:
        BadInput: if runs have different numbers of strengths.
    """
    rows = [(run, run.robustness.get(kind, ())) for run in runs]
    whole = [(run, row) for run, row in rows if not isinstance(row, Attack) and _whole(row)]
    for run, row in whole:
        if len(row) != len(whole[0][1]):
            raise BadInput(
                f"{run.run.path / ANALYSIS}: broken: quality.robustness.{kind} has {len(row)} strengths, "
                f"and that of {whole[0][0].run.path / ANALYSIS} has {len(whole[0][1])}"
            )
    return np.array([row for _, row in whole], dtype=float)


def weak_classes(runs: Sequence[Measured], count: int) -> list[WeakClass]:
    """Find the classes that are worst for most seeds of an arm.

    Args:
        runs: analysed runs of an arm.
        count: how many to give.

    Returns:
        Those that the most seeds list as worst, lower accuracy first among equals.
    """
    found: dict[str, list[float]] = {}
    for run in runs:
        for row in run.quality.worst_classes:
            if row.accuracy is not None:
                found.setdefault(row.name, []).append(row.accuracy)
    classes = [WeakClass(name, len(values), estimate(values)) for name, values in found.items()]
    return sorted(classes, key=lambda one: (-one.seeds, one.accuracy.mean))[:count]


def _whole(values: Sequence[float | None]) -> bool:
    return bool(values) and None not in values


def titled(kind: str) -> str:
    """Write a key of a file as words."""
    return kind.replace("_", " ").capitalize()
