"""Figures of the runs themselves: accuracies, sweep, trade-off, losses and gradients by epoch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dotkd.analysis.tradeoff import Point, pareto_front
from dotkd.report.evidence import COLUMNS, Array, Layers, Plane
from dotkd.report.figures.base import (
    INK,
    SMALL,
    Look,
    Scene,
    arm_legend,
    band,
    colour_scale,
    figure,
    is_wide,
    legend,
    make_log,
    note,
    panels,
    set_title,
    short,
)
from dotkd.report.read import Series
from dotkd.report.statistics import TEST, VALIDATION, Estimate, Runs, measure, over_seeds

_LINES = "Lines are means over seeds; bands reach from the lowest to the highest seed."
_NOISY = (
    "With wrong labels, a lower task loss in training partly means that the student has learned the noise."
)


def _noise(scene: Scene) -> str:
    """Return a sentence for figures of training losses if some training labels are wrong."""
    noisy = any(run.recipe["data"].get("label_noise") for run in scene.evidence.comparison.runs)
    return _NOISY if noisy else ""


# ---------------------------------------------------------------- accuracy


@figure(
    "accuracy",
    "results",
    "Test accuracy after the last epoch.",
    "Each dot is a seed; a diamond is the mean of several seeds with its 95 % interval. Overlapping "
    "intervals decide nothing: the table compares arms seed by seed.",
)
def _accuracy(scene: Scene) -> Figure:
    summary = scene.evidence.summary
    # Swept arms come last, in order of their values, as in the table.
    swept = [name for series in scene.evidence.comparison.series for name in series.names]
    arms = sorted(summary.arms, key=lambda arm: swept.index(arm.name) + 1 if arm.name in swept else 0)
    made, (axes,) = panels(1, size=(5.2, 0.6 + (0.5 if len(arms) <= 6 else 0.4) * len(arms)))
    for place, arm in enumerate(arms):
        colour = scene.looks[arm.name]["color"]
        seeds = [100 * (measure(run, TEST) or 0.0) for run in scene.evidence.comparison.arms[arm.name]]
        axes.plot(seeds, [place - 0.17] * len(seeds), "o", color=colour, alpha=0.75, markeredgewidth=0)
        if arm.test.low is not None and arm.test.high is not None:
            axes.plot([100 * arm.test.low, 100 * arm.test.high], [place + 0.12] * 2, color=colour)
            axes.plot(100 * arm.test.mean, place + 0.12, "D", color=colour, markersize=5)
    looks: dict[str, Look] = {"seed": {"color": INK, "marker": "o", "linestyle": "", "alpha": 0.75}}
    if any(arm.test.n > 1 for arm in arms):
        looks["mean with 95 % interval"] = {"color": INK, "marker": "D", "linestyle": "-"}
    for teacher in summary.teachers:
        name = teacher.name if "teacher" in teacher.name.lower() else f"teacher {teacher.name}"
        look: Look = {"color": INK, "linestyle": "--", "linewidth": 1}
        axes.axvline(100 * teacher.test_accuracy, **look)
        looks[f"{name}, seed {teacher.seed}: {100 * teacher.test_accuracy:.2f} %"] = look
    axes.set_yticks(range(len(arms)), [short(scene.labels[arm.name]) for arm in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.06)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, 0.0), min(high, 100.0))
    axes.set_xlabel("Test accuracy, last epoch (%)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    legend(made, looks)
    means = ", ".join(f"{arm.name} {100 * arm.test.mean:.2f} %" for arm in arms)
    axes.set_label(f"Means: {means}.")
    return made


# ---------------------------------------------------------------- sweep


@figure(
    "sweep",
    "sweep",
    "The last epoch by swept value.",
    "Higher is better for accuracy, lower for losses. The intervals are those of the means; the comparisons "
    "above are paired by seed.",
)
def _sweep(scene: Scene) -> Figure | None:
    comparison = scene.evidence.comparison
    if not comparison.series:
        return None
    plans = {
        "accuracy": _first_complete(
            scene, {VALIDATION: "Validation accuracy (%)", TEST: "Test accuracy (%)"}
        ),
        "task": _first_complete(
            scene, {"validation_loss": "Task loss, validation", "train_task_loss": "Task loss, training"}
        ),
        "distill": _first_complete(
            scene,
            {
                "validation_distill_loss": "Distillation loss, validation",
                "train_distill_loss": "Distillation loss, training",
            },
        ),
    }
    swept = {name for series in comparison.series for name in series.names}
    shown: dict[str, tuple[str, dict[str, Estimate]]] = {}
    for column, title in plans.values():
        estimates = {name: over_seeds(runs, column) for name, runs in comparison.arms.items()}
        found = {name: one for name, one in estimates.items() if one is not None}
        if swept & set(found):
            shown[column] = title, found
    looks = {series.base: scene.looks[series.base] for series in comparison.series}
    flat = {"linestyle": "--", "marker": "", "linewidth": 1.2}
    unswept = {name: scene.looks[name] | flat for name in comparison.arms if name not in swept}
    made, every = panels(len(shown))
    for axes, (column, (title, found)) in zip(every, shown.items(), strict=True):
        factor = 100 if column in (VALIDATION, TEST) else 1
        said = [
            _sweep_line(axes, scene, series, place, found, factor)
            for place, series in enumerate(comparison.series)
        ]
        for name, look in unswept.items():
            if name in found:
                axes.axhline(factor * found[name].mean, **look)
                said.append(f"{name} {factor * found[name].mean:.3g}")
        set_title(axes, title, [factor * one.mean for one in found.values()])
        _swept_values(axes, comparison.series)
        axes.set_label(f"{title} by swept value: {', '.join(filter(None, said))}.")
    # An unswept arm may have the name of a base: the legend keeps the two apart.
    legend(made, looks | {f"{name}, not swept" if name in looks else name: unswept[name] for name in unswept})
    note(made, f"Swept: {' and '.join(comparison.series[0].keys)}.")
    if any(len(runs) > 1 for runs in comparison.arms.values()):
        note(made, "Marks are means over seeds, bars their 95 % intervals.")
    if unswept:
        note(made, "Horizontal lines are arms that were not swept.")
    return made


def _first_complete(scene: Scene, titles: Mapping[str, str]) -> tuple[str, str]:
    """Return the first measure that every swept run has, else the last one, with its title."""
    comparison = scene.evidence.comparison
    runs = [run for series in comparison.series for name in series.names for run in comparison.arms[name]]
    complete = [name for name in titles if all(measure(run, name) is not None for run in runs)]
    column = [*complete, list(titles)[-1]][0]
    return column, titles[column]


def _sweep_line(
    axes: Axes, scene: Scene, series: Series, number: int, found: Mapping[str, Estimate], factor: float
) -> str:
    points = [point for point in series.points if point.name in found]
    if not points:
        return ""
    # Places that are names and not numbers stand side by side, so that bars do not hide each other.
    count = len(scene.evidence.comparison.series)
    aside = 0.0 if series.numeric else 0.08 * (number - (count - 1) / 2)
    estimates = [found[point.name] for point in points]
    means = [factor * one.mean for one in estimates]
    reach = [0.0 if one.high is None else factor * (one.high - one.mean) for one in estimates]
    places = [point.place + aside for point in points]
    axes.errorbar(places, means, reach, **scene.looks[series.base], capsize=2, elinewidth=1)
    ends = [f"{point.label} {mean:.3g}" for point, mean in zip(points, means, strict=True)]
    return f"{series.base} at {'; '.join(ends)}"


def _swept_values(axes: Axes, every: Sequence[Series]) -> None:
    """Write the swept values on the horizontal axis."""
    points, keys = [point for series in every for point in series.points], every[0].keys
    if every[0].numeric:
        axes.set_xlabel(short(keys[0], 1, 36))
        places = sorted({point.place for point in points})
        room = (places[-1] - places[0]) / 10  # for a number below each place
        if is_wide(places):
            make_log(axes, "x")
        elif all(after - before > room for before, after in pairwise(places)):
            axes.set_xticks(places, [f"{place:g}" for place in places])
        return
    values = {point.place: [short(value, 1, 12) for value in point.values] for point in points}
    lengthy = len(values) > 5 and any(len(value) > 5 for found in values.values() for value in found)
    axes.set_xticks(list(values), ["\n".join(found) for found in values.values()], rotation=45 * lengthy)
    axes.set_xlabel("\n".join(short(key, 1, 36) for key in keys))


# ---------------------------------------------------------------- the trade-off


@figure(
    "tradeoff",
    "losses",
    "The plane of the two losses, raw.",
    "An arm below and to the left of another is lower in both losses. Where only the loss weights were "
    "swept, the joined ends are the front that reweighting reaches.",
)
def _tradeoff(scene: Scene) -> Figure | None:
    planes = scene.evidence.planes
    if not planes:
        return None
    plans: list[tuple[Plane, dict[str, list[Point]] | None]] = []
    for plane in planes:
        found = _paths(scene, plane)
        if any(len(path) > 1 for path in found.values()):
            plans.append((plane, found))
        plans.append((plane, None))
    made, every = panels(len(plans))
    looks: dict[str, Look] = {}
    for axes, (plane, paths) in zip(every, plans, strict=True):
        method = f"{plane.method}: " if len(planes) > 1 else ""
        if paths is not None:
            _draw_paths(axes, scene, paths, f"{method}paths over epochs", plane)
        else:
            _draw_ends(axes, scene, plane, f"{method}ends, after the last epoch")
        looks |= _plane_looks(scene, plane)
    legend(made, looks)
    splits = list(dict.fromkeys(plane.split for plane in planes))
    note(made, f"Losses are {' / '.join(splits)} losses.")
    if any(len(runs) > 1 for runs in scene.evidence.comparison.arms.values()):
        note(made, "Lines and large marks are means over seeds, small dots are seeds.")
    if len(scene.arms) < len(scene.evidence.comparison.arms):
        note(
            made, "All ends are drawn, and of each swept arm the path of the value best on validation images."
        )
    if "training" in splits:
        note(made, _noise(scene))
    return made


def _plane_looks(scene: Scene, plane: Plane) -> dict[str, Look]:
    """Return name and look of each base on a plane."""
    comparison = scene.evidence.comparison
    swept = {series.base: series for series in comparison.series}
    fronts = plane.fronts(comparison)
    looks = {}
    for base in dict.fromkeys(scene.bases[name] for name in plane.ends):
        name = base
        if base in swept:
            keys = " and ".join(key.partition(".")[2] for key in swept[base].keys)
            name = f"{base}, by {keys}" + (", joined: the front" if swept[base] in fronts else "")
        looks[name] = scene.looks[base]
    return looks


def _paths(scene: Scene, plane: Plane) -> dict[str, list[Point]]:
    """Return the mean losses of each arm, epoch by epoch."""
    distill, task = COLUMNS[plane.split]
    found = {}
    for arm, runs in scene.arms.items():
        if arm in plane.ends:
            (x, y) = (_curve(runs, column) for column in (distill, task))
            if x is not None and y is not None:
                ours, theirs = (
                    dict(zip(x.epochs, x.mean, strict=True)),
                    dict(zip(y.epochs, y.mean, strict=True)),
                )
                found[arm] = [(float(ours[e]), float(theirs[e])) for e in ours if e in theirs]
    return found


def _draw_paths(
    axes: Axes, scene: Scene, paths: Mapping[str, Sequence[Point]], title: str, plane: Plane
) -> None:
    for arm, path in paths.items():
        look = scene.looks[scene.bases[arm]]
        axes.plot(*zip(*path, strict=True), **look | {"marker": "", "linewidth": 1.2})
        axes.plot(*path[-1], look["marker"], color=look["color"], markersize=6)
    _finish_plane(axes, title, [point for path in paths.values() for point in path])
    axes.set_label(_said(title, plane, paths))


def _draw_ends(axes: Axes, scene: Scene, plane: Plane, title: str) -> None:
    comparison = scene.evidence.comparison
    fronts = plane.fronts(comparison)
    means = {arm: _mean(list(ends.values())) for arm, ends in plane.ends.items()}
    named = next(iter(fronts or comparison.series), None)
    for series in comparison.series:
        points, colour = (
            [means[arm] for arm in series.names if arm in means],
            scene.looks[series.base]["color"],
        )
        if series in fronts:
            axes.plot(*_joined(pareto_front(points)), color=colour, linewidth=1.4)
        elif len(points) > 1:
            thin: Look = {"linewidth": 1.0, "alpha": 0.8, "linestyle": (0, (1, 1.5))}
            axes.plot(*zip(*points, strict=True), color=colour, **thin)
        # The values stand at one series: those of others are near.
        for point in (series.points[0], series.points[-1]) if series is named and len(points) > 1 else ():
            if point.name in means:
                beside: Look = {"xytext": (5, 4), "textcoords": "offset points", "fontsize": 7.5}
                axes.annotate(short(point.label), means[point.name], **beside)
    for arm, ends in plane.ends.items():
        look = scene.looks[scene.bases[arm]]
        if len(ends) > 1:
            x, y = zip(*ends.values(), strict=True)
            axes.plot(x, y, "o", color=look["color"], alpha=0.5, markersize=3, markeredgewidth=0)
        axes.plot(*means[arm], look["marker"], color=look["color"], markersize=6)
    axes.margins(0.12)
    _finish_plane(
        axes, title, [*means.values(), *(at for ends in plane.ends.values() for at in ends.values())]
    )
    axes.set_label(_said(title, plane, plane.ends))


def _mean(points: Sequence[Point]) -> Point:
    x, y = np.mean(points, axis=0)
    return float(x), float(y)


def _joined(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """Join points by straight lines, in pieces so short that a logarithmic axis bends them rightly."""
    line = [
        (a + (c - a) * part, b + (d - b) * part)
        for (a, b), (c, d) in pairwise(points)
        for part in np.linspace(0, 1, 20)
    ] or list(points)
    return [x for x, _ in line], [y for _, y in line]


def _finish_plane(axes: Axes, title: str, shown: Sequence[Point]) -> None:
    logs = [is_wide([point[place] for point in shown]) for place in (0, 1)]
    for which, log in zip("xy", logs, strict=True):
        if log:
            make_log(axes, which)
    axes.set_xlabel("Distillation loss" + " (log scale)" * logs[0])
    axes.set_ylabel("Task loss" + " (log scale)" * logs[1])
    axes.set_title(title[0].upper() + title[1:])


def _said(title: str, plane: Plane, arms: Mapping[str, object]) -> str:
    means = {arm: _mean(list(plane.ends[arm].values())) for arm in arms}
    ends = ", ".join(f"{arm} at {x:.3g} and {y:.3g}" for arm, (x, y) in means.items())
    return f"{title[0].upper()}{title[1:]}, distillation and task loss of {plane.split}: {ends}."


# ---------------------------------------------------------------- curves


@dataclass(frozen=True)
class _Curve:
    """A metric of an arm: for each epoch [E] mean, lowest and highest value over seeds."""

    epochs: Array
    mean: Array
    low: Array
    high: Array


def _curve(runs: Runs, column: str) -> _Curve | None:
    """Return a metric by epoch; a run counts in the epochs that have a value."""
    table = np.full((len(runs), max(len(run.metrics) for run in runs)), math.nan)
    for row, run in zip(table, runs, strict=True):
        row[: len(run.metrics)] = [getattr(epoch, column) for epoch in run.metrics]  # None becomes NaN
    known = np.isfinite(table).any(axis=0)
    if not known.any():
        return None
    table = table[:, known]
    mean = np.nanmean(table, axis=0).astype(np.float64)
    return _Curve(
        np.arange(1.0, len(known) + 1)[known], mean, np.nanmin(table, axis=0), np.nanmax(table, axis=0)
    )


def _curves(scene: Scene, titles: Mapping[str, tuple[str, float | None]]) -> Figure | None:
    """Draw metrics by epoch, a panel for each that an arm has; titles come with a line to read against."""
    shown = {}
    for column in titles:
        found = {
            arm: curve for arm, runs in scene.arms.items() if (curve := _curve(runs, column)) is not None
        }
        if found:
            shown[column] = found
    if not shown:
        return None
    made, every = panels(len(shown))
    for axes, (column, curves) in zip(every, shown.items(), strict=True):
        title, line = titles[column]
        if line is not None:
            axes.axhline(line, color=INK, linewidth=0.8, alpha=0.6)
        for place, (arm, curve) in enumerate(curves.items()):
            step = max(1, len(curve.epochs) // 6)
            # Arms have their markers at different epochs, so that they do not cover each other.
            axes.plot(curve.epochs, curve.mean, **scene.looks[arm], markevery=(place % step, step))
            band(axes, curve.epochs, curve.low, curve.high, scene.looks[arm])
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if all(len(curve.epochs) == 1 for curve in curves.values()):
            axes.set_xticks([curve.epochs[0] for curve in curves.values()])
        set_title(axes, title, np.concatenate([curve.mean for curve in curves.values()]).tolist())
        ends = ", ".join(f"{arm} ends at {curve.mean[-1]:.3g}" for arm, curve in curves.items())
        axes.set_label(f"{title} by epoch: {ends}.")
    arm_legend(scene, made, [arm for arm in scene.arms if any(arm in found for found in shown.values())])
    note(made, scene.remarks(_LINES))
    if any(column.startswith("train_") for column in shown):
        note(made, _noise(scene))
    return made


@figure(
    "losses",
    "losses",
    "The losses by epoch, raw.",
    "Lower is better. Where one loss falls and the other rises, there is a trade-off. Losses are raw, before "
    "any weight: compare arms within a panel, not across panels.",
)
def _losses(scene: Scene) -> Figure | None:
    titles = {
        "train_task_loss": "Task loss, training",
        "train_distill_loss": "Distillation loss, training",
        "validation_loss": "Task loss, validation",
        "validation_distill_loss": "Distillation loss, validation",
    }
    return _curves(scene, {column: (title, None) for column, title in titles.items()})


@figure(
    "gradients",
    "gradients",
    "The gradients of the two losses on one fixed probe batch, the same for all arms.",
    "A cosine below 0 between the gradients means that the losses conflict on this batch; a norm ratio above "
    "1 means that the task gradient is longer. A cosine below 0 with the last step means that, where the "
    "step ended, a further step along it would raise that loss.",
)
def _gradients(scene: Scene) -> Figure | None:
    return _curves(
        scene,
        {
            "gradient_cosine": ("Cosine between the gradients", 0.0),
            "gradient_norm_ratio": ("Norm ratio, task to distillation", 1.0),
            "gradient_sign_disagreement": ("Share of coordinates with opposite signs", 0.5),
            "task_total_cosine": ("Cosine, task gradient and sum", 0.0),
            "distill_total_cosine": ("Cosine, distillation gradient and sum", 0.0),
            "task_update_cosine": ("Cosine, task descent and last step", 0.0),
            "distill_update_cosine": ("Cosine, distillation descent and last step", 0.0),
        },
    )


# ---------------------------------------------------------------- gradients by layer


@figure(
    "layers",
    "gradients",
    "Cosine between the two gradients in each layer, after each epoch, on the probe batch.",
    "Orange: below 0, the losses pull the layer in opposite directions. Violet: above 0, they agree. The "
    "norms of the gradients are not shown.",
)
def _layers(scene: Scene) -> Figure | None:
    layers = {arm: found for arm, found in scene.evidence.layers.items() if arm in scene.arms}
    found = {arm: one for arm, one in layers.items() if np.isfinite(one.mean("cosine")).any()}
    if not found:
        return None
    edges = np.linspace(-1, 1, 11).tolist()
    colours = ListedColormap(matplotlib.colormaps["PuOr"](np.linspace(0.02, 0.98, 10)))
    norm = BoundaryNorm(edges, 10)
    made, every = panels(len(found), 4, SMALL)
    for axes, (arm, one) in zip(every, found.items(), strict=True):
        # A picture: drawn as areas, the maps of many arms would be the heaviest part of the page.
        extent = (0.5, len(one.epochs) + 0.5, len(one.names) + 0.5, 0.5)
        picture = np.ma.masked_invalid(one.mean("cosine"))
        axes.imshow(picture, cmap=colours, norm=norm, aspect="auto", interpolation="none", extent=extent)
        _layer_axes(axes, one)
        axes.set_title(short(scene.labels[arm]), fontsize=8.5)
        axes.set_label(f"{scene.labels[arm]}: {_lowest_and_highest(one)}")
    colour_scale(made, every, edges, colours, "Cosine")
    first = next(iter(found.values()))
    named = f"1 is {first.names[0]}"
    if len(first.names) > 1:
        named += f" at the input, {len(first.names)} is {first.names[-1]} at the output"
    where = "" if all(one.names == first.names for one in found.values()) else f" of {next(iter(found))}"
    note(made, f"Layer{where} {named}.", scene.remarks("Colours are means over seeds."))
    return made


def _layer_axes(axes: Axes, found: Layers) -> None:
    count, epochs = len(found.names), len(found.epochs)
    every = range(1, count + 1)
    axes.set_yticks(
        every if count <= 8 else sorted({1, *(round(1 + (count - 1) * n / 4) for n in range(1, 5))})
    )
    axes.set_ylabel("Layer")
    axes.set_xlabel("Epoch")
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    if found.epochs != tuple(range(1, epochs + 1)) or epochs == 1:
        axes.set_xticks([1, epochs], [str(found.epochs[0]), str(found.epochs[-1])])


def _lowest_and_highest(found: Layers) -> str:
    last = found.mean("cosine")[:, -1]
    if not np.isfinite(last).any():
        return f"no cosine after epoch {found.epochs[-1]}."
    low, high = int(np.nanargmin(last)), int(np.nanargmax(last))
    return (
        f"after epoch {found.epochs[-1]} the cosine is lowest in {found.names[low]}, {last[low]:.2f}, and "
        f"highest in {found.names[high]}, {last[high]:.2f}; it is below 0 in "
        f"{sum(value < 0 for value in last if math.isfinite(value))} of {len(found.names)} layers."
    )
