"""The trade-off between the losses: the way of each arm across the plane of both, and where it ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from dotkd.analysis.tradeoff import Point, pareto_front
from dotkd.report.figures.curves import curves
from dotkd.report.figures.scene import Scene
from dotkd.report.figures.svg import Chart, Look, Panel, is_wide, make_log, new_axes, sample, short, to_svg
from dotkd.report.sweep import Series
from dotkd.report.tradeoff import COLUMNS, Plane, fronts, planes

_SPREAD = " Lines and large marks are means over seeds, small dots are the seeds."
_LEFT_OUT = (
    " Of each swept arm the path of the value that is best on validation images is drawn, and all ends."
)
_THIN: Look = {"linewidth": 1.0, "alpha": 0.8, "marker": "", "linestyle": (0, (1, 1.5))}


@dataclass(frozen=True)
class _Marks:
    """How a family of arms is drawn in this figure, and what the legend calls it."""

    look: Look
    name: str


def tradeoff(scene: Scene) -> Chart | None:
    """Draw the plane of the two losses: paths over epochs, and the end points with the front of a sweep."""
    found = planes(scene.groups)
    if not found:
        return None
    several = len(found) > 1
    panels, used = [], {}
    for place, plane in enumerate(found):
        on_front = fronts(plane, scene.extras.sweep, scene.series, scene.summary)
        marks = _marks(scene, plane, on_front)
        used.update(marks)
        method = f"{plane.method}: " if several else ""
        if path := _paths(scene, plane, marks, f"{method}paths over epochs", f"tradeoff-path{place}"):
            panels.append(path)
        title = f"{method}ends, after the last epoch"
        panels.append(_ends(scene, plane, marks, on_front, title, f"tradeoff-ends{place}"))
    splits = " / ".join(dict.fromkeys(plane.split for plane in found))
    caption = f"The plane of the two losses, raw, {splits} losses.{scene.remarks(_SPREAD, _LEFT_OUT)}"
    legend = tuple(
        (sample(f"tradeoff-{place}", marks.look), marks.name) for place, marks in enumerate(used.values())
    )
    of_training = any(plane.split == "training" for plane in found)
    return Chart("tradeoff", caption, tuple(panels), legend, of_training=of_training)


def _marks(scene: Scene, plane: Plane, on_front: Sequence[Series]) -> dict[str, _Marks]:
    swept = {series.base: series for series in scene.series}
    marks = {}
    for name in plane.ends:
        base = scene.families[name]
        said = base
        if base in swept:
            keys = " and ".join(key.partition(".")[2] for key in swept[base].keys)
            said = f"{base}, by {keys}" + (", joined: the front" if swept[base] in on_front else "")
        marks[base] = _Marks(scene.looks[base], said)
    return marks


def _paths(scene: Scene, plane: Plane, marks: Mapping[str, _Marks], title: str, name: str) -> Panel | None:
    groups = {arm: scene.groups[arm] for arm in scene.drawn if arm in plane.ends}
    distill, task = (curves(groups, column) for column in COLUMNS[plane.split])
    figure, axes = new_axes()
    shown: list[tuple[float, float]] = []
    for arm in groups:
        ours = dict(zip(distill[arm].epochs, distill[arm].mean, strict=True))
        theirs = dict(zip(task[arm].epochs, task[arm].mean, strict=True))
        path = [(float(ours[epoch]), float(theirs[epoch])) for epoch in ours if epoch in theirs]
        shown += path
        look = marks[scene.families[arm]].look
        axes.plot(*zip(*path, strict=True), **look | {"marker": "", "linewidth": 1.2})
        axes.plot(*path[-1], look["marker"], color=look["color"], markersize=6)
    if len(shown) <= len(groups):  # one epoch: no path
        return None
    _axes(axes, title, shown)
    return Panel(to_svg(figure, name), _label(title, plane, groups))


def _ends(
    scene: Scene,
    plane: Plane,
    marks: Mapping[str, _Marks],
    on_front: Sequence[Series],
    title: str,
    name: str,
) -> Panel:
    figure, axes = new_axes()
    means = {arm: _mean(list(ends.values())) for arm, ends in plane.ends.items()}
    named = next(iter(on_front or scene.series), None)
    for series in scene.series:
        points = [means[arm] for arm in series.names if arm in means]
        colour = marks[series.base].look["color"] if points else ""
        if series in on_front:
            axes.plot(*_joined(pareto_front(points)), color=colour, linewidth=1.4)
        elif len(points) > 1:
            axes.plot(*zip(*points, strict=True), **_THIN | {"color": colour})
        # One series says the values: those of others are near theirs.
        for point in (series.points[0], series.points[-1]) if series is named and len(points) > 1 else ():
            if point.name in means:
                axes.annotate(
                    short(point.label),
                    means[point.name],
                    xytext=(5, 4),
                    textcoords="offset points",
                    fontsize=7.5,
                )
    for arm, ends in plane.ends.items():
        look = marks[scene.families[arm]].look
        if len(ends) > 1:
            x, y = zip(*ends.values(), strict=True)
            axes.plot(x, y, "o", color=look["color"], alpha=0.5, markersize=3, markeredgewidth=0)
        axes.plot(*means[arm], look["marker"], color=look["color"], markersize=6)
    axes.margins(0.12)
    _axes(axes, title, [*means.values(), *(at for ends in plane.ends.values() for at in ends.values())])
    return Panel(to_svg(figure, name), _label(title, plane, plane.ends))


def _mean(points: Sequence[Point]) -> Point:
    x, y = np.mean(points, axis=0)
    return float(x), float(y)


def _joined(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """Straight lines between points, in pieces so small that a logarithmic axis bends them rightly."""
    line = [
        (a + (c - a) * part, b + (d - b) * part)
        for (a, b), (c, d) in pairwise(points)
        for part in np.linspace(0, 1, 20)
    ] or list(points)
    return [x for x, _ in line], [y for _, y in line]


def _axes(axes: Axes, title: str, shown: Sequence[Point]) -> None:
    for which, values in (("x", [x for x, _ in shown]), ("y", [y for _, y in shown])):
        if is_wide(values):
            make_log(axes, which)
    logs = [scale() == "log" for scale in (axes.get_xscale, axes.get_yscale)]
    axes.set_xlabel("Distillation loss" + (" (log scale)" if logs[0] else ""))
    axes.set_ylabel("Task loss" + (" (log scale)" if logs[1] else ""))
    axes.set_title(title[0].upper() + title[1:])


def _label(title: str, plane: Plane, arms: Mapping[str, object]) -> str:
    ends = []
    for arm in arms:
        x, y = _mean(list(plane.ends[arm].values()))
        ends.append(f"{arm} at {x:.3g} and {y:.3g}")
    return f"{title}, distillation and task loss of {plane.split}: {', '.join(ends)}."
