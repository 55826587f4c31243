"""A sweep: accuracy and both losses by the swept value, a line for each base."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes

from dotkd.report.figures.scene import Scene
from dotkd.report.figures.svg import Chart, Look, Panel, is_wide, make_log, new_axes, sample, short, to_svg
from dotkd.report.statistics import Estimate, Measure, at_end, last_test, over_seeds
from dotkd.runs import RunRecord

_CROWDED = 5
_ASIDE = 0.08
_LONGEST = 12


@dataclass(frozen=True)
class _Plan:
    """A panel: what is measured, times what."""

    key: str
    title: str
    measure: Measure
    factor: float = 1.0

    def measured(self, run: RunRecord) -> float | None:
        """Give the number that is drawn."""
        value = self.measure(run)
        return None if value is None else self.factor * value


@dataclass(frozen=True)
class _Looks:
    """A line with marks for each base, and a dashed line without for each arm that was not swept."""

    bases: Mapping[str, Look]
    unswept: Mapping[str, Look]


def sweep(scene: Scene) -> Chart | None:
    """Draw what the swept values come to; arms that were not swept are horizontal lines."""
    if not scene.series:
        return None
    plans = [_accuracy(scene), *_losses(scene)]
    looks = _looks(scene)
    panels = tuple(panel for plan in plans if (panel := _panel(scene, plan, looks)))
    keys = " and ".join(scene.series[0].keys)
    several = any(len(runs) > 1 for runs in scene.groups.values())
    intervals = " Marks are means over seeds, bars their 95 % intervals." if several else ""
    dashed = " Horizontal lines are arms that were not swept." if looks.unswept else ""
    caption = f"The last epoch by {keys}.{intervals}{dashed}"
    bases = [series.base for series in scene.series]
    # An arm that was not swept may have the name of a base: the legend keeps the two apart.
    said = [*bases, *(f"{name}, as it is" if name in bases else name for name in looks.unswept)]
    every = [*looks.bases.values(), *looks.unswept.values()]
    legend = tuple(
        (sample(f"sweep-{place}", look), name)
        for place, (look, name) in enumerate(zip(every, said, strict=True))
    )
    return Chart("sweep", caption, panels, legend)


def _accuracy(scene: Scene) -> _Plan:
    validation = at_end("validation_accuracy")
    if _all_have(scene, validation):
        return _Plan("accuracy", "Validation accuracy (%)", validation, 100)
    return _Plan("accuracy", "Test accuracy (%)", last_test, 100)


def _losses(scene: Scene) -> list[_Plan]:
    plans = []
    for title, columns in (
        ("Task loss", ("validation_loss", "train_task_loss")),
        ("Distillation loss", ("validation_distill_loss", "train_distill_loss")),
    ):
        column = columns[0] if _all_have(scene, at_end(columns[0])) else columns[1]
        split = "validation" if column.startswith("validation") else "training"
        plans.append(_Plan(column, f"{title}, {split}", at_end(column)))
    return plans


def _all_have(scene: Scene, measure: Measure) -> bool:
    """Say whether every run of a sweep has a measure."""
    names = [name for series in scene.series for name in series.names]
    return all(measure(run) is not None for name in names for run in scene.groups[name])


def _looks(scene: Scene) -> _Looks:
    swept = {name for series in scene.series for name in series.names}
    flat = {"linestyle": "--", "marker": "", "linewidth": 1.2}
    return _Looks(
        bases={series.base: scene.looks[series.base] for series in scene.series},
        unswept={name: scene.looks[name] | flat for name in scene.groups if name not in swept},
    )


def _panel(scene: Scene, plan: _Plan, looks: _Looks) -> Panel | None:
    estimates = {name: over_seeds(runs, plan.measured) for name, runs in scene.groups.items()}
    found = {name: estimate for name, estimate in estimates.items() if estimate is not None}
    if not any(name in found for series in scene.series for name in series.names):
        return None
    figure, axes = new_axes()
    said = []
    for number, series in enumerate(scene.series):
        points = [point for point in series.points if point.name in found]
        if points:
            # Side by side, where places are names and not numbers, so that bars do not hide each other.
            aside = 0.0 if series.numeric else _ASIDE * (number - (len(scene.series) - 1) / 2)
            places = [point.place + aside for point in points]
            means = [found[point.name].mean for point in points]
            reach = [_reach(found[point.name]) for point in points]
            axes.errorbar(places, means, reach, **looks.bases[series.base], capsize=2, elinewidth=1)
            ends = [f"{point.label} {mean:.3g}" for point, mean in zip(points, means, strict=True)]
            said.append(f"{series.base} at {'; '.join(ends)}")
    for name, look in looks.unswept.items():
        if name in found:
            axes.axhline(found[name].mean, **look)
            said.append(f"{name} {found[name].mean:.3g}")
    title = plan.title
    if is_wide([estimate.mean for estimate in found.values()]):
        make_log(axes, "y")
        title = f"{title} (log scale)"
    axes.set_title(title)
    _values(scene, axes)
    return Panel(to_svg(figure, f"sweep-{plan.key}"), f"{plan.title} by swept value: {', '.join(said)}.")


def _apart(places: Sequence[float]) -> bool:
    """Say whether each place has room for a number below it."""
    room = (places[-1] - places[0]) / _CROWDED / 2
    return all(after - before > room for before, after in pairwise(places))


def _reach(estimate: Estimate) -> float:
    return 0.0 if estimate.high is None else estimate.high - estimate.mean


def _values(scene: Scene, axes: Axes) -> None:
    """Write the swept values on the horizontal axis."""
    points = [point for series in scene.series for point in series.points]
    keys = scene.series[0].keys
    if scene.series[0].numeric:
        axes.set_xlabel(short(keys[0], 1, 3 * _LONGEST))
        places = sorted({point.place for point in points})
        if is_wide(places):
            make_log(axes, "x")
        elif _apart(places):
            axes.set_xticks(places, [f"{place:g}" for place in places])
        return
    values = {point.place: [short(value, 1, _LONGEST) for value in point.values] for point in points}
    lengthy = len(values) > _CROWDED and any(
        len(value) > _CROWDED for found in values.values() for value in found
    )
    axes.set_xticks(list(values), ["\n".join(found) for found in values.values()], rotation=45 * lengthy)
    axes.set_xlabel("\n".join(short(key, 1, 3 * _LONGEST) for key in keys))
