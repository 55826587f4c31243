"""Figures of analysed runs: loss surfaces, spectra, lines between students, reliability and robustness."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from dotkd.report.evidence import WORSE, Array, corruptions, part, reliability_bins, strengths
from dotkd.report.figures.base import (
    INK,
    SMALL,
    Scene,
    arm_legend,
    band,
    colour_scale,
    figure,
    is_wide,
    note,
    panels,
    set_title,
    short,
    signed,
)
from dotkd.report.statistics import Runs

LEVELS = 12  # colours of a surface
_FINE = 31  # points on a side from which on a surface is drawn as a picture


def _analysed(scene: Scene) -> dict[str, Runs]:
    return {arm: runs for arm, runs in scene.evidence.analysed.items() if arm in scene.arms}


# ---------------------------------------------------------------- loss surfaces


@figure(
    "landscape-task",
    "minima",
    "The task loss around the end of training, on a plane of two random directions.",
    "The cross is the student. Directions, in units of each filter's norm, and colours are the same for all "
    "arms: the wider apart the lines, the flatter the minimum.",
)
def _landscape_task(scene: Scene) -> Figure | None:
    return _landscape(scene, "task", "Task loss")


@figure(
    "landscape-distill",
    "minima",
    "The distillation loss around the end of training, on the plane of the same two directions.",
    "Colours are the same for all arms of this figure only. Arms with different distillation losses are not "
    "comparable.",
)
def _landscape_distill(scene: Scene) -> Figure | None:
    return _landscape(scene, "distill", "Distillation loss")


@dataclass(frozen=True)
class _Surface:
    """A loss at ``steps`` along two directions around a student; rows are steps along the first."""

    seed: int
    steps: Array
    grid: Array


def _surface(runs: Runs, loss: str) -> _Surface | None:
    """Return the surface of the first analysed seed."""
    for run in runs:
        rows = part(run, f"landscape.{loss}")
        if rows is not None:  # None in a row becomes NaN
            return _Surface(run.seed, np.array(part(run, "landscape.steps")), np.array(rows, dtype=float))
    return None


def _landscape(scene: Scene, loss: str, title: str) -> Figure | None:
    found = {arm: one for arm, runs in _analysed(scene).items() if (one := _surface(runs, loss)) is not None}
    values = (
        np.concatenate([one.grid[np.isfinite(one.grid)] for one in found.values()]) if found else np.empty(0)
    )
    if not values.size:
        return None
    edges = levels(values)
    colours = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 1, LEVELS)))
    reach = max(float(np.abs(one.steps).max()) for one in found.values())
    made, every = panels(len(found), 4, (SMALL[0], 2.45))
    for axes, (arm, one) in zip(every, found.items(), strict=True):
        masked = np.ma.masked_invalid(one.grid.T)  # the first direction runs to the right
        areas = axes.contourf(one.steps, one.steps, masked, edges, colors=colours.colors)
        areas.set_edgecolor("#ffffffb0")  # hides the seams between areas
        areas.set_linewidth(0.4)
        if len(one.steps) > _FINE:
            areas.set_rasterized(True)
            made.set_dpi(160)
        axes.plot(0, 0, "+", color="white", markersize=9, markeredgewidth=2.6)
        axes.plot(0, 0, "+", color="black", markersize=8, markeredgewidth=1.2)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axes.grid(visible=False)
        ticks = [-reach, 0.0, reach]
        axes.set_xticks(ticks, list(map(signed, ticks)))
        axes.set_yticks(ticks, list(map(signed, ticks)))
        axes.set_title(f"{short(scene.labels[arm])}\nseed {one.seed}", fontsize=8.5)
        axes.set_label(f"{scene.labels[arm]}, seed {one.seed}: {_centre_and_range(one.grid)}")
    colour_scale(made, every, edges.tolist(), colours, title)
    note(made, scene.remarks())
    return made


def levels(values: Array) -> Array:
    """Return the edges of the colours from the lowest value to the highest; a wide range has equal ratios."""
    low, high = float(values.min()), float(values.max())
    if is_wide([low, high]):
        return np.geomspace(low, high, LEVELS + 1)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # flat
        high = low + max(abs(low), 1.0) * 1e-3
    return np.linspace(low, high, LEVELS + 1)


def _centre_and_range(grid: Array) -> str:
    finite = grid[np.isfinite(grid)]
    if not finite.size:
        return "no finite value."
    middle = grid[tuple(size // 2 for size in grid.shape)]
    centre = f"{middle:.3g} in the middle, " if math.isfinite(middle) else ""
    return f"{centre}lowest {finite.min():.3g}, highest {finite.max():.3g}."


# ---------------------------------------------------------------- spectra


@figure(
    "spectrum",
    "minima",
    "Density of the eigenvalues of the Hessian at the end of training.",
    "Further right is sharper; left of 0 the loss curves downwards. Every eigenvalue has the same weight, "
    "and almost all lie near 0. Lanczos estimate: the ends are close to eigenvalues, the heights are rough.",
)
def _spectrum(scene: Scene) -> Figure | None:
    shown = {}
    for loss, title in (("task", "Task loss"), ("distill", "Distillation loss")):
        pooled = {arm: _pooled(runs, loss) for arm, runs in _analysed(scene).items()}
        found = {arm: spectrum for arm, spectrum in pooled.items() if spectrum is not None}
        if found:
            shown[title] = found
    if not shown:
        return None
    made, every = panels(len(shown))
    for axes, (title, found) in zip(every, shown.items(), strict=True):
        nodes = np.concatenate([nodes for nodes, _ in found.values()])
        low, high = float(nodes.min()), float(nodes.max())
        width = 0.02 * ((high - low) or abs(high) or 1.0)  # one for all arms: heights are compared
        grid = np.linspace(low - 5 * width, high + 5 * width, 300)
        densities = {arm: density(*spectrum, grid, width) for arm, spectrum in found.items()}
        floor = _floor(found, max(float(one.max()) for one in densities.values()), width)
        axes.axvline(0, color=INK, linewidth=0.8, alpha=0.6)
        for place, (arm, one) in enumerate(densities.items()):
            look = scene.looks[arm] | {"linewidth": 1.2}
            axes.plot(grid, np.where(one > floor, one, np.nan), **look, markevery=(place * 5 % 37, 37))
        axes.set_yscale("log")
        axes.set_ylim(bottom=floor)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _power_of_ten(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="Eigenvalue", ylabel="Density (log scale)", title=title)
        ends = ", ".join(f"{arm} from {one.min():.3g} to {one.max():.3g}" for arm, (one, _) in found.items())
        axes.set_label(f"{title}, outermost eigenvalues found: {ends}.")
    arm_legend(scene, made, [arm for arm in scene.arms if any(arm in found for found in shown.values())])
    note(made, scene.remarks("Lines are means over seeds."))
    return made


def _pooled(runs: Runs, loss: str) -> tuple[Array, Array] | None:
    """Return nodes and weights of all seeds together; the weights add up to 1."""
    spectra = [part(run, f"sharpness.{loss}.spectrum") for run in runs]
    known = [one for one in spectra if one is not None and any(one.weights)]
    if not known:
        return None
    weights = [np.array(one.weights) / (sum(one.weights) * len(known)) for one in known]
    return np.concatenate([np.array(one.nodes) for one in known]), np.concatenate(weights)


def density(nodes: Array, weights: Array, grid: Array, width: float) -> Array:
    """Smooth nodes [m], whose weights add up to 1, by Gaussians; return the density on the grid [points]."""
    bumps = np.exp(-(((grid[:, None] - nodes) / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))
    smooth: Array = bumps @ weights
    return smooth


def _floor(found: Mapping[str, tuple[Array, Array]], highest: float, width: float) -> float:
    """Return a lower end of the axis at which the outermost bump of each arm is seen, one in millions."""
    ends = [weights[end(nodes)] for nodes, weights in found.values() for end in (np.argmin, np.argmax)]
    lone = min((float(weight) for weight in ends if weight > 0), default=0.0)
    return max(0.3 * lone / (width * math.sqrt(2 * math.pi)), 1e-9 * highest)


def _power_of_ten(value: float) -> str:
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return f"10{str(round(math.log10(value))).translate(raised)}"


# ---------------------------------------------------------------- lines between students


@figure(
    "interpolation",
    "minima",
    "The straight line from a student of one arm, at 0, to a student of another, at 1.",
    "Both ends are students; statistics of batch norm are interpolated like the weights. A hill between them "
    "means that this line leaves their basins, not that no other path avoids the hill.",
)
def _interpolation(scene: Scene) -> Figure | None:
    lines = [line for line in scene.evidence.lines if line.arm in scene.arms]
    titles = {"task": "Task loss", "distill": "Distillation loss", "accuracy": "Accuracy (%)"}
    plans = []
    for start, seeds in dict.fromkeys((line.start, line.seeds) for line in lines):
        for name in WORSE:
            same = [line for line in lines if (line.start, line.seeds) == (start, seeds)]
            found = [line for line in same if line.barriers(name)]
            if found:
                label = short(scene.labels.get(start, start), 1, 20)
                plans.append((f"{titles[name]}\nfrom {label} {seeds}", name, found))
    if not plans:
        return None
    made, every = panels(len(plans), 3, (2.75, 2.5))
    for axes, (title, name, found) in zip(every, plans, strict=True):
        factor, shown, said = 100 if name == "accuracy" else 1, [], []
        for place, line in enumerate(found):
            table = factor * line.values[name]
            table = table[np.isfinite(table).all(axis=1)]
            mean, look = table.mean(axis=0), scene.looks[line.arm]
            axes.plot(line.steps, mean, **look, markevery=(place % 4, 4))
            band(axes, line.steps, table.min(axis=0), table.max(axis=0), look)
            shown += mean.tolist()
            barrier = factor * float(np.mean(line.barriers(name)))
            said.append(f"{line.arm} {mean[len(mean) // 2]:.3g} half way, barrier {barrier:.3g}")
        set_title(axes, title, shown if name != "accuracy" else ())
        axes.set_xlabel("Place on the line")
        first, _, rest = title.partition("\n")
        axes.set_label(f"{first} {rest}: {', '.join(said)}.")
    arm_legend(scene, made, list(dict.fromkeys(line.arm for _, _, found in plans for line in found)))
    note(
        made,
        scene.remarks("Lines are means over the measured runs; bands reach from the lowest to the highest."),
    )
    return made


# ---------------------------------------------------------------- predictions


@figure(
    "reliability",
    "quality",
    "Confidence and accuracy, all seeds of an arm together.",
    "On the diagonal confidence equals accuracy; below it the student is overconfident, above it "
    "underconfident. Bins with few images are noisy.",
)
def _reliability(scene: Scene) -> Figure | None:
    found = {
        arm: bins for arm, runs in _analysed(scene).items() if (bins := reliability_bins(runs)) is not None
    }
    if not found:
        return None
    made, (diagram, shares) = panels(2)
    diagram.plot([0, 100], [0, 100], color=INK, linewidth=0.8, alpha=0.6)
    right, most = [], []
    for arm, bins in found.items():
        filled = bins.count > 0
        confidence, accuracy = 100 * bins.confidence[filled], 100 * bins.accuracy[filled]
        diagram.plot(confidence, accuracy, **scene.looks[arm])
        right.append(f"{arm} {accuracy[-1]:.0f} % right at {confidence[-1]:.0f} %")
        edges = np.linspace(0, 100, len(bins.count) + 1)
        images = 100 * bins.count / bins.count.sum()
        shares.plot((edges[:-1] + edges[1:]) / 2, images, **scene.looks[arm])
        most.append(f"{arm} {images[-1]:.0f} %")
    diagram.set(
        xlabel="Confidence (%)", ylabel="Accuracy (%)", title="Reliability", xlim=(0, 102), ylim=(0, 102)
    )
    diagram.set_label(f"Accuracy by confidence, in the highest bin: {', '.join(right)}.")
    shares.set(xlabel="Confidence (%)", ylabel="Images (%)", title="Share of images", xlim=(0, 102))
    shares.set_ylim(bottom=0)
    shares.set_label(f"Share of images by confidence, in the highest bin: {', '.join(most)}.")
    arm_legend(scene, made, list(found))
    note(made, scene.remarks())
    return made


@figure(
    "robustness",
    "quality",
    "Accuracy by the strength of a corruption.",
    "The flatter the curve, the more robust the student. The scale of strengths, 1 to 5, is dotkd's own.",
)
def _robustness(scene: Scene) -> Figure | None:
    found = _analysed(scene)
    kinds = corruptions(found)
    if not kinds:
        return None
    made, every = panels(len(kinds), 4, SMALL)
    drawn: dict[str, None] = {}
    for axes, kind in zip(every, kinds, strict=True):
        said = []
        for arm, runs in found.items():
            table = 100 * strengths(runs, kind)
            if table.size:
                places, look = np.arange(1, table.shape[1] + 1), scene.looks[arm]
                axes.plot(places, table.mean(axis=0), **look)
                band(axes, places, table.min(axis=0), table.max(axis=0), look)
                said.append(f"{arm} {table[:, -1].mean():.1f} %")
                drawn[arm] = None
        title = kind.replace("_", " ").capitalize()
        axes.set(title=title, xlabel="Strength", ylabel="Accuracy (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_label(f"Accuracy under {title.lower()} at the highest strength: {', '.join(said)}.")
    arm_legend(scene, made, list(drawn))
    note(made, scene.remarks("Lines are means over seeds; bands reach from the lowest to the highest seed."))
    return made
