"""Numbers of a report beyond ``statistics``: trade-off, gradients by layer, analyses, interpolations.

:class:`Evidence` collects all numbers and computes each on first use. ``findings`` puts them into sentences;
``tables`` and ``figures`` show them.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dotkd.analysis.tradeoff import Point, dominates, front_position, lower_counts
from dotkd.errors import BadInput
from dotkd.records import Attack, EpochGradients, Interpolation, LayerGradients
from dotkd.report.read import Arms, Comparison, Series, is_distilled, losses_of
from dotkd.report.statistics import (
    Choice,
    Estimate,
    Runs,
    Summary,
    choose,
    estimate,
    measure,
    over_seeds,
    summarize,
)
from dotkd.runs import ANALYSIS, RunRecord

Array = npt.NDArray[np.float64]

# ---------------------------------------------------------------- the trade-off

COLUMNS = {
    "validation": ("validation_distill_loss", "validation_loss"),
    "training": ("train_distill_loss", "train_task_loss"),
}
"""Distillation and task loss of a split: the axes of a plane."""
_WEIGHTS = {"method.task_weight", "method.distill_weight"}


@dataclass(frozen=True)
class Plane:
    """Arms with one distillation loss; ``ends`` maps arm -> seed -> (distillation loss, task loss).

    The losses are raw, of the last epoch: on validation images where every run has both, else in training.
    """

    method: str
    split: str
    ends: Mapping[str, Mapping[int, Point]]

    def fronts(self, comparison: Comparison) -> list[Series]:
        """Return the fronts that reweighting reaches: series of plain momentum, swept in the weights only."""
        if comparison.sweep is None or not set(comparison.sweep.keys) <= _WEIGHTS:
            return []
        return [
            series
            for series in comparison.series
            if all(comparison.kinds[name] == "sgd" for name in series.names)
            and len([name for name in series.names if name in self.ends]) > 1
        ]


@dataclass(frozen=True)
class AgainstFront:
    """The ends of a DOT arm beside the front of a base, counted over the ``seeds`` that all arms have.

    ``not_dominated``: no weighting is as low in both losses and lower in one; ``below``: below the line
    through the front; ``beyond``: not dominated, and past an end of that line.
    """

    arm: str
    base: str
    arms: int
    seeds: tuple[int, ...]
    not_dominated: int
    below: int
    beyond: int


@dataclass(frozen=True)
class BothLower:
    """Number of ``seeds`` for which ``arm`` ends lower: in the task loss, the distillation loss, both."""

    arm: str
    against: str
    seeds: int
    task: int
    distill: int
    both: int


@dataclass(frozen=True)
class Dominance:
    """The arms that an arm dominates with every common seed (``over``), and vice versa (``under``).

    ``alone`` counts, out of ``seeds``, the seeds for which no other arm of the plane dominates it.
    """

    arm: str
    seeds: int
    alone: int
    others: int
    over: tuple[str, ...]
    under: tuple[str, ...]


def _planes(arms: Arms) -> Iterator[Plane]:
    alike: list[tuple[object, list[str]]] = []
    for name, runs in arms.items():
        if not is_distilled(runs[0]):
            continue
        key = losses_of(runs[0])
        same = next((names for losses, names in alike if losses == key), None)
        if same is None:
            alike.append((key, [name]))
        else:
            same.append(name)
    for _, names in alike:
        for split, columns in COLUMNS.items():
            ends = {name: _ends(arms[name], columns) for name in names}
            complete = all(len(ends[name]) == len(arms[name]) for name in names)
            if complete or (split == "training" and any(ends.values())):
                method = str(arms[names[0]][0].recipe["method"]["name"])
                yield Plane(method, split, {name: at for name, at in ends.items() if at})
                break


def _ends(runs: Runs, columns: tuple[str, str]) -> dict[int, Point]:
    pairs = {run.seed: (measure(run, columns[0]), measure(run, columns[1])) for run in runs}
    return {seed: (x, y) for seed, (x, y) in pairs.items() if x is not None and y is not None}


def against_fronts(plane: Plane, comparison: Comparison) -> list[AgainstFront]:
    """Count the seeds of each DOT arm beside each front of a plane."""
    dots = [name for name, kind in comparison.kinds.items() if kind == "dot" and name in plane.ends]
    return [_against(plane, dot, series) for series in plane.fronts(comparison) for dot in dots]


def _against(plane: Plane, dot: str, series: Series) -> AgainstFront:
    others = [plane.ends[name] for name in series.names if name in plane.ends]
    ours = plane.ends[dot]
    seeds = tuple(seed for seed in ours if all(seed in ends for ends in others))
    found = [front_position(ours[seed], [ends[seed] for ends in others]) for seed in seeds]
    return AgainstFront(
        arm=dot,
        base=series.base,
        arms=len(others),
        seeds=seeds,
        not_dominated=sum(place != "dominated" for place in found),
        below=found.count("below"),
        beyond=found.count("beyond"),
    )


def dominance(plane: Plane) -> list[Dominance]:
    """Count, for each of several arms of a plane, which others it dominates and which dominate it."""
    ends, found = plane.ends, []
    for arm, ours in ends.items() if len(ends) > 1 else ():
        others = {name: theirs for name, theirs in ends.items() if name != arm}
        alone = [
            seed
            for seed, at in ours.items()
            if not any(dominates(theirs[seed], at) for theirs in others.values() if seed in theirs)
        ]
        over = tuple(name for name, theirs in others.items() if _always(ours, theirs))
        under = tuple(name for name, theirs in others.items() if _always(theirs, ours))
        found.append(Dominance(arm, len(ours), len(alone), len(others), over, under))
    return found


def _always(ours: Mapping[int, Point], theirs: Mapping[int, Point]) -> bool:
    shared = [seed for seed in ours if seed in theirs]
    return bool(shared) and all(dominates(ours[seed], theirs[seed]) for seed in shared)


def both_lower(plane: Plane, pairs: Iterable[tuple[str, str]]) -> list[BothLower]:
    """Count, for pairs of arms on a plane with a common seed, how often the first ends lower."""
    found = []
    for arm, other in pairs:
        ours, theirs = plane.ends.get(arm, {}), plane.ends.get(other, {})
        seeds = [seed for seed in ours if seed in theirs]
        if seeds:
            lower = lower_counts([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])
            found.append(BothLower(arm, other, lower.pairs, lower.second, lower.first, lower.both))
    return found


# ---------------------------------------------------------------- gradients by layer


@dataclass(frozen=True)
class Layers:
    """The gradients of an arm by layer; ``values`` maps a measure to ``[seeds, layers, epochs]``.

    Unknown numbers are NaN. Layers are in the order of the network. Runs with other layers than the first
    run are left out, and so are epochs that not every run has.
    """

    names: tuple[str, ...]
    epochs: tuple[int, ...]
    seeds: tuple[int, ...]
    values: Mapping[str, Array]

    def mean(self, name: str) -> Array:
        """Return means over the seeds that have a number, ``[layers, epochs]``."""
        table = self.values[name]
        known = np.isfinite(table)
        count = known.sum(axis=0)
        total = np.where(known, table, 0.0).sum(axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), math.nan)


def _layers(runs: Runs) -> Layers | None:
    having = [run for run in runs if run.gradients]
    if not having or not having[0].gradients[0].layers:
        return None
    names = tuple(having[0].gradients[0].layers)
    alike = [run for run in having if all(tuple(line.layers) == names for line in run.gradients)]
    if not alike:
        return None
    tables = [{line.epoch: line for line in run.gradients} for run in alike]
    epochs = sorted(set.intersection(*(set(table) for table in tables)))
    if not epochs:
        return None
    values = {name: _by_layer(tables, names, epochs, name) for name in LayerGradients.model_fields}
    return Layers(names, tuple(epochs), tuple(run.seed for run in alike), values)


def _by_layer(
    tables: Sequence[Mapping[int, EpochGradients]], layers: Sequence[str], epochs: Sequence[int], name: str
) -> Array:
    rows = [
        [[getattr(table[epoch].layers[layer], name) for epoch in epochs] for layer in layers]
        for table in tables
    ]
    return np.array(rows, dtype=float)  # None becomes NaN


# ---------------------------------------------------------------- analyses


def part(run: RunRecord, path: str) -> Any:
    """Return a part of the analysis of a run by its dotted path, such as ``quality.ece``; None without it."""
    found: Any = run.analysis
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else getattr(found, key, None)
    return found


def _analysed(run: RunRecord, path: str, factor: float) -> float | None:
    value = part(run, path)
    if isinstance(value, tuple):
        value = max((number for number in value if number is not None), default=None)
    return None if value is None else factor * value


@dataclass(frozen=True)
class Bins:
    """Bins of confidence over all seeds of an arm: means over images, and numbers of images, ``[bins]``."""

    confidence: Array
    accuracy: Array
    count: Array


def reliability_bins(runs: Runs) -> Bins | None:
    """Pool the reliability bins of analysed runs.

    Args:
        runs: Analysed runs of an arm.

    Returns:
        The bins; None if no run has an image in one.

    Raises:
        BadInput: Runs have different numbers of bins.
    """
    tables = [(run, table) for run in runs if (table := part(run, "quality.reliability"))]
    _check_lengths([(run, table.count) for run, table in tables], "quality.reliability", "bins")
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


def _check_lengths(rows: Sequence[tuple[RunRecord, Sequence[Any]]], key: str, what: str) -> None:
    for run, row in rows:
        first, expected = rows[0]
        if len(row) != len(expected):
            where = first.path / ANALYSIS
            raise BadInput(
                f"{run.path / ANALYSIS}: broken: {key} has {len(row)} {what}, but {len(expected)} in {where}"
            )


def _robustness(run: RunRecord) -> Mapping[str, Any]:
    return part(run, "quality.robustness") or {}


def corruptions(analysed: Arms) -> tuple[str, ...]:
    """Return the corruptions that some run has complete accuracies under, in the order of the files."""
    found = {
        kind: None
        for runs in analysed.values()
        for run in runs
        for kind, values in _robustness(run).items()
        if not isinstance(values, Attack) and values and None not in values
    }
    return tuple(found)


def strengths(runs: Runs, kind: str) -> Array:
    """Return the accuracies of an arm under a corruption.

    Args:
        runs: Analysed runs of an arm.
        kind: The corruption.

    Returns:
        ``[seeds, strengths]`` of the runs that have every strength; empty if none has.

    Raises:
        BadInput: Runs have different numbers of strengths.
    """
    rows = [(run, _robustness(run).get(kind, ())) for run in runs]
    rows = [(run, row) for run, row in rows if not isinstance(row, Attack) and row and None not in row]
    _check_lengths(rows, f"quality.robustness.{kind}", "strengths")
    return np.array([row for _, row in rows], dtype=float)


def attacks(runs: Runs) -> dict[tuple[str, str], Estimate | None]:
    """Return the accuracy of an arm under each attack, by kind and size."""
    found: dict[tuple[str, str], list[float | None]] = {}
    for run in runs:
        for kind, values in _robustness(run).items():
            if isinstance(values, Attack):
                found.setdefault((kind, _size(values)), []).append(values.accuracy)
    return {key: estimate(values) for key, values in found.items()}


def _size(attack: Attack) -> str:
    if attack.epsilon is None:
        return "epsilon unknown"
    steps = 255 * attack.epsilon
    return f"{steps:.0f}/255" if abs(steps - round(steps)) < 1e-6 else f"{attack.epsilon:.3g}"


@dataclass(frozen=True)
class WorstClassOfArm:
    """A class that ``seeds`` seeds of an arm list among their worst, and its accuracy for these seeds."""

    name: str
    seeds: int
    accuracy: Estimate


def worst_classes_of(runs: Runs, count: int) -> list[WorstClassOfArm]:
    """Return the classes that most seeds list as worst, lower accuracy first among equals."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for row in part(run, "quality.worst_classes") or ():
            if row.accuracy is not None:
                found.setdefault(row.name, []).append(row.accuracy)
    classes = [
        WorstClassOfArm(name, len(values), accuracy)
        for name, values in found.items()
        if (accuracy := estimate(values)) is not None
    ]
    return sorted(classes, key=lambda one: (-one.seeds, one.accuracy.mean))[:count]


# ---------------------------------------------------------------- lines between students

WORSE = {"task": 1.0, "distill": 1.0, "accuracy": -1.0}
"""Measures on a line between students, and the sign of getting worse."""


@dataclass(frozen=True)
class Lines:
    """Lines from students of ``start`` to those of ``arm``; ``values`` maps a measure to ``[lines, steps]``.

    Unknown numbers are NaN. ``paired`` lines join runs with the same seed, which have the same
    initialisation; no mean mixes the two kinds.
    """

    start: str
    arm: str
    paired: bool
    steps: Array
    values: Mapping[str, Array]

    @property
    def seeds(self) -> str:
        """Whether the seeds are the same, as words after the name of an arm."""
        return "with the same seed" if self.paired else "with another seed"

    def barriers(self, name: str) -> list[float]:
        r"""Return, for each line, how far a measure gets worse than the straight line between its ends.

        .. math::
            \max_t \; \pm \big( f(t) - (1 - t) f(0) - t f(1) \big)

        with t from the first step to the last, scaled to [0, 1], and the sign that makes worse positive: the
        barrier of Entezari, Sedghi, Saukh and Neyshabur, ICLR 2022, arXiv 2110.06296.

        Args:
            name: ``"task"``, ``"distill"`` or ``"accuracy"``.

        Returns:
            A number of at least 0 for each line on which all values are known.
        """
        values = self.values.get(name, np.empty((0, len(self.steps))))
        values = values[np.isfinite(values).all(axis=1)]
        t = (self.steps - self.steps[0]) / (self.steps[-1] - self.steps[0])
        straight = values[:, :1] * (1 - t) + values[:, -1:] * t
        above = (WORSE[name] * (values - straight)).max(axis=1)
        return [max(float(value), 0.0) for value in above]


def lines_between(analysed: Arms) -> list[Lines]:
    """Sort the interpolations of analysed runs by their two arms.

    Args:
        analysed: Name of an arm -> its analysed runs.

    Returns:
        The lines between each pair of arms: those of one start together, the paired ones first.

    Raises:
        BadInput: Lines have different steps.
    """
    found: dict[tuple[str, bool, str], list[Interpolation]] = {}
    first: RunRecord | None = None
    for name, runs in analysed.items():
        for run in runs:
            line = part(run, "interpolation")
            if line is None or len(line.steps) < 2:
                continue
            first = first or run
            if line.steps != part(first, "interpolation.steps"):
                raise BadInput(
                    f"{run.path / ANALYSIS}: broken: interpolation.steps differ from those of "
                    f"{first.path / ANALYSIS}"
                )
            found.setdefault((line.arm, line.seed == run.seed, name), []).append(line)
    starts = list(dict.fromkeys(start for start, _, _ in found))
    keys = sorted(found, key=lambda key: (starts.index(key[0]), not key[1]))
    return [_lines(*key, found[key]) for key in keys]


def _lines(start: str, paired: bool, arm: str, lines: Sequence[Interpolation]) -> Lines:
    values = {}
    for name in WORSE:
        known = [row for line in lines if (row := getattr(line, name)) is not None]
        if known:
            values[name] = np.array(known, dtype=float)  # None becomes NaN
    return Lines(start, arm, paired, np.array(lines[0].steps), values)


# ---------------------------------------------------------------- all numbers


@dataclass(frozen=True)
class Evidence:
    """All numbers of a report, each computed on first use."""

    comparison: Comparison

    @cached_property
    def summary(self) -> Summary:
        """Arms and differences."""
        return summarize(self.comparison)

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """The best value of each series."""
        return choose(self.comparison, self.summary.baseline)

    @cached_property
    def spoken(self) -> dict[str, Runs]:
        """The arms of summary and curves: those outside the sweep, and the best value of each series."""
        best = {choice.series.base: choice.best.name for choice in self.choices}
        hidden = {
            name
            for series in self.comparison.series
            if series.base in best
            for name in series.names
            if name != best[series.base]
        }
        return {name: runs for name, runs in self.comparison.arms.items() if name not in hidden}

    @cached_property
    def planes(self) -> tuple[Plane, ...]:
        """A plane for each distillation loss."""
        return tuple(_planes(self.comparison.arms))

    @cached_property
    def layers(self) -> dict[str, Layers]:
        """The gradients layer by layer, of the arms that have them."""
        found = {name: _layers(runs) for name, runs in self.comparison.arms.items()}
        return {name: layers for name, layers in found.items() if layers is not None}

    @cached_property
    def analysed(self) -> dict[str, list[RunRecord]]:
        """The analysed runs, of the arms that have any."""
        found = {name: [run for run in runs if run.analysis] for name, runs in self.comparison.arms.items()}
        return {name: runs for name, runs in found.items() if runs}

    @property
    def analysed_runs(self) -> list[RunRecord]:
        """The analysed runs of all arms."""
        return [run for runs in self.analysed.values() for run in runs]

    def metric(self, name: str) -> dict[str, Estimate | None]:
        """Estimate a metric of the last epoch for each arm."""
        return {arm: over_seeds(runs, name) for arm, runs in self.comparison.arms.items()}

    def analysis(self, path: str, factor: float = 1.0) -> dict[str, Estimate | None]:
        """Estimate a part of the analyses, times a factor, for each arm; a tuple counts by its maximum."""
        values = {arm: [_analysed(run, path, factor) for run in runs] for arm, runs in self.analysed.items()}
        return {arm: estimate(found) for arm, found in values.items()}

    @cached_property
    def lines(self) -> list[Lines]:
        """The lines between students: those of one start together, the paired ones first."""
        return lines_between(self.analysed)
