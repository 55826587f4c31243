"""The numbers of a sweep: its arms in order of their values, and which value is best on validation images.

The arms that were made of one recipe are a series; it is named after that recipe, its base.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dotkd.report.inputs import Sweep
from dotkd.report.statistics import Difference, at_end, difference, estimate
from dotkd.runs import RunRecord

VALIDATION = at_end("validation_accuracy")

Groups = Mapping[str, Sequence[RunRecord]]


@dataclass(frozen=True)
class Point:
    """An arm of a series: ``values`` as a reader sees them, one for each key, and the place on the axis."""

    name: str
    values: tuple[str, ...]
    place: float

    @property
    def label(self) -> str:
        """The values in a line."""
        return " / ".join(self.values)


@dataclass(frozen=True)
class Series:
    """Arms made of one base; ``numeric`` says whether their places are the swept numbers themselves."""

    base: str
    keys: tuple[str, ...]
    points: tuple[Point, ...]
    numeric: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The arms' names."""
        return tuple(point.name for point in self.points)


@dataclass(frozen=True)
class Choice:
    """The point of a series that is best on validation images, and how it compares with others there.

    ``against`` names its arms by their values, neighbours first; the baseline, where it is not swept, has
    its name.
    """

    series: Series
    best: Point
    accuracy: float
    against: tuple[Difference, ...]


def make_series(sweep: Sweep | None, groups: Groups) -> tuple[Series, ...]:
    """Sort the arms of a sweep that were run.

    Args:
        sweep: what was swept, if anything was.
        groups: name of an arm -> its runs.

    Returns:
        A series for each base that has an arm among the runs, in the order of the file; one key with
        numbers puts its arms in order of these.
    """
    if sweep is None:
        return ()
    numeric = len(sweep.keys) == 1 and all(_is_number(arm.values[0]) for arm in sweep.arms)
    values = list(dict.fromkeys(_shown(arm.values) for arm in sweep.arms))
    found: dict[str, list[Point]] = {}
    for arm in sweep.arms:
        if arm.name in groups:
            shown = _shown(arm.values)
            place = float(arm.values[0]) if numeric else float(values.index(shown))
            found.setdefault(arm.base, []).append(Point(arm.name, shown, place))
    return tuple(
        Series(base, sweep.keys, tuple(sorted(points, key=lambda point: point.place)), numeric)
        for base, points in found.items()
    )


def not_run(sweep: Sweep | None, groups: Groups) -> list[str]:
    """Name the arms of a sweep that have no finished run."""
    return [arm.name for arm in sweep.arms if arm.name not in groups] if sweep else []


def choices(every: Sequence[Series], groups: Groups, baseline: str) -> tuple[Choice, ...]:
    """Find the values that are best on validation images after the last epoch, by their means over seeds.

    Args:
        every: all series.
        groups: name of an arm -> its runs.
        baseline: name of the arm that others are compared with.

    Returns:
        The best value of each series, and its differences to the neighbouring values and, unless it is
        swept too, to the baseline. A series with a run without validation accuracy has none, for then the
        test images would have to choose.
    """
    swept = {name for series in every for name in series.names}
    found = [_choose(series, groups, None if baseline in swept else baseline) for series in every]
    return tuple(choice for choice in found if choice is not None)


def _choose(series: Series, groups: Groups, baseline: str | None) -> Choice | None:
    found: list[float] = []
    for name in series.names:
        measured = [VALIDATION(run) for run in groups[name]]
        accuracies = [value for value in measured if value is not None]
        if len(accuracies) < len(measured):
            return None
        found.append(estimate(accuracies).mean)
    place = max(range(len(found)), key=found.__getitem__)
    best = series.points[place]

    def against(name: str, said: str) -> Difference:
        paired = difference(groups[best.name], groups[name], VALIDATION)
        return replace(paired, arm=best.label, against=said)

    neighbours = [series.points[i] for i in (place - 1, place + 1) if 0 <= i < len(found)]
    compared = [against(point.name, point.label) for point in neighbours]
    if baseline is not None:
        compared.append(against(baseline, baseline))
    return Choice(series, best, found[place], tuple(compared))


def spoken_of(groups: Groups, every: Sequence[Series], best_of: Collection[Choice]) -> tuple[str, ...]:
    """Name the arms for figures that have a line for each arm, and for the summary.

    Args:
        groups: name of an arm -> its runs.
        every: all series.
        best_of: what was chosen of them.

    Returns:
        The arms that were not swept, and of each series the best on validation, or all without a choice.
    """
    best = {choice.series.base: choice.best.name for choice in best_of}
    left_out = {
        name for series in every if series.base in best for name in series.names if name != best[series.base]
    }
    return tuple(name for name in groups if name not in left_out)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(
        f"{value:.6g}" if _is_number(value) else value if isinstance(value, str) else json.dumps(value)
        for value in values
    )
