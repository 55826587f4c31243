"""The figures of a report, as inline SVG that reads on light and on dark paper.

Every panel is an SVG of its own, so that a page can put panels beside or below each other. Lines and
letters are in ``currentColor``, the background is transparent, and an arm has its colour, line style and
marker in every panel; the legend is a list of names with small SVG samples, which a page sets as text.
"""

import io
import itertools
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from dotkd.report.statistics import Summary, by_arm
from dotkd.runs import RunRecord

# Okabe and Ito's colours as far as they stand out from white and from near black; plain is grey.
GREY, COLOURS = "#808080", ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#9a7b00")
LINES, MARKERS = ("-", "--", "-.", (0, (1, 1.2))), "osD^vXP"
INK = "#010203"  # stands for currentColor until the SVG is written
SIZE = (4.0, 2.9)
LOG_FROM = 20  # a range of this many times itself is drawn on a logarithmic axis
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dotkd",
    "text.parse_math": False,
    "font.size": 9,
    **dict.fromkeys(["text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"], INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "axes.linewidth": 0.6,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.unicode_minus": True,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}

Look = dict[str, Any]
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """One SVG element, and what it shows in words for those who do not see it."""

    svg: str
    label: str


@dataclass(frozen=True)
class Chart:
    """A figure: ``key`` names it (the keys of text.READINGS), ``legend`` pairs a sample SVG with a name."""

    key: str
    caption: str
    panels: tuple[Panel, ...]
    legend: tuple[tuple[str, str], ...]


def charts(runs: Sequence[RunRecord], summary: Summary) -> list[Chart]:
    """Draw the figures of a report.

    Args:
        runs: the runs that the summary was made of.
        summary: their numbers.

    Returns:
        The losses, the gradients unless no arm distils, and the accuracies.
    """
    groups = by_arm(runs)
    with matplotlib.rc_context(STYLE):
        looks = _looks(summary)
        return list(_charts(groups, summary, looks))


def _charts(
    groups: Mapping[str, Sequence[RunRecord]], summary: Summary, looks: Mapping[str, Look]
) -> Iterator[Chart]:
    def chart(key: str, caption: str, panels: Sequence[tuple[str, str, float | None]]) -> Chart | None:
        shown = {column: _curves(groups, column) for column, _, _ in panels}
        drawn = [
            Panel(
                _curve_panel(f"{key}-{column}", title, shown[column], looks, line),
                _label(title, shown[column]),
            )
            for column, title, line in panels
            if shown[column]
        ]
        names = [name for name in groups if any(name in curves for curves in shown.values())]
        legend = tuple((_sample(f"{key}-{place}", looks[name]), name) for place, name in enumerate(names))
        return Chart(key, caption, tuple(drawn), legend) if drawn else None

    band = ""
    if any(len(runs) > 1 for runs in groups.values()):
        band = " Lines are means over seeds, bands reach from the lowest to the highest seed."
    distils = any(arm.kind != "plain" for arm in summary.arms)
    losses = chart(
        "losses" if distils else "task-loss",
        f"{'The two training losses' if distils else 'The training loss'}, raw, by epoch.{band}",
        [("train_task_loss", "Task loss", None), ("train_distill_loss", "Distillation loss", None)],
    )
    gradients = chart(
        "gradients",
        f"The gradients of the two losses on one fixed probe batch, the same for all arms.{band}",
        [
            ("gradient_cosine", "Cosine between the gradients", 0.0),
            ("gradient_norm_ratio", "Norm ratio, task to distillation", 1.0),
        ],
    )
    yield from (drawn for drawn in (losses, gradients) if drawn)
    yield _accuracy(groups, summary, looks)


def _looks(summary: Summary) -> dict[str, Look]:
    """Colour, line style and marker of each arm."""
    looks, colours = {}, itertools.cycle(COLOURS)
    for place, arm in enumerate(summary.arms):
        looks[arm.name] = {
            "color": GREY if place == 0 and arm.kind == "plain" else next(colours),
            "linestyle": LINES[place % len(LINES)],
            "marker": MARKERS[place % len(MARKERS)],
        }
    return looks


# ---------------------------------------------------------------- curves over epochs


@dataclass(frozen=True)
class _Curve:
    """A column of an arm: for every epoch [E] mean, lowest and highest value over its seeds."""

    epochs: Numbers
    mean: Numbers
    low: Numbers
    high: Numbers


def _curves(groups: Mapping[str, Sequence[RunRecord]], column: str) -> dict[str, _Curve]:
    """Curves of the arms that have the column; a run that lacks an epoch does not count in it."""
    curves = {}
    for name, runs in groups.items():
        found = [
            {row["epoch"]: row[column] for row in run.metrics if row.get(column) is not None} for run in runs
        ]
        epochs = sorted(set().union(*found))
        if epochs:
            table = np.array([[row.get(epoch, math.nan) for epoch in epochs] for row in found], dtype=float)
            # Some run has each of these epochs, so that no column is empty.
            over_seeds = (reduce(table, axis=0) for reduce in (np.nanmean, np.nanmin, np.nanmax))
            curves[name] = _Curve(np.array(epochs, dtype=float), *over_seeds)
    return curves


def _curve_panel(
    name: str, title: str, curves: Mapping[str, _Curve], looks: Mapping[str, Look], line: float | None
) -> str:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    if line is not None:
        axes.axhline(line, color=INK, linewidth=0.8, alpha=0.6)
    for place, (arm, curve) in enumerate(curves.items()):
        every = max(1, len(curve.epochs) // 6)
        # Arms start their markers at different epochs, so that they do not cover each other.
        axes.plot(curve.epochs, curve.mean, **looks[arm], markevery=(place % every, every))
        axes.fill_between(
            curve.epochs, curve.low, curve.high, color=looks[arm]["color"], alpha=0.18, linewidth=0
        )
    _axes(axes, title, np.concatenate([curve.mean for curve in curves.values()]))
    if all(len(curve.epochs) == 1 for curve in curves.values()):
        axes.set_xticks([curve.epochs[0] for curve in curves.values()])
    return _svg(figure, name)


def _axes(axes: Axes, title: str, means: Numbers) -> None:
    axes.set_xlabel("Epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if means.min() > 0 and means.max() > LOG_FROM * means.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        title = f"{title} (log scale)"
    axes.set_title(title)


def _label(title: str, curves: Mapping[str, _Curve]) -> str:
    ends = [f"{arm} ends at {curve.mean[-1]:.3g}" for arm, curve in curves.items()]
    return f"{title} by epoch: {', '.join(ends)}."


# ---------------------------------------------------------------- accuracies


def _accuracy(
    groups: Mapping[str, Sequence[RunRecord]], summary: Summary, looks: Mapping[str, Look]
) -> Chart:
    figure = Figure(figsize=(4.6, 0.75 + 0.55 * len(groups)), layout="constrained")
    axes = figure.add_subplot()
    for place, arm in enumerate(summary.arms):
        colour = looks[arm.name]["color"]
        seeds = [100 * run.results["last"]["test_accuracy"] for run in groups[arm.name]]
        axes.plot(seeds, [place - 0.17] * len(seeds), "o", color=colour, alpha=0.75, markeredgewidth=0)
        if arm.test.low is not None and arm.test.high is not None:
            axes.plot([100 * arm.test.low, 100 * arm.test.high], [place + 0.12] * 2, color=colour)
            axes.plot(100 * arm.test.mean, place + 0.12, "D", color=colour, markersize=5)
    for teacher in summary.teachers:
        axes.axvline(100 * teacher.test_accuracy, color=INK, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(summary.arms)), [_short(arm.name) for arm in summary.arms])
    axes.set_ylim(len(summary.arms) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.06)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, 0.0), min(high, 100.0))
    axes.set_xlabel("Test accuracy, last epoch (%)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    means = ", ".join(f"{arm.name} {100 * arm.test.mean:.2f} %" for arm in summary.arms)
    panel = Panel(_svg(figure, "accuracy"), f"Test accuracy of each arm, means: {means}.")
    legend = [
        (_sample("accuracy-seed", {"color": INK, "marker": "o", "linestyle": "", "alpha": 0.75}), "one seed")
    ]
    if any(arm.test.n > 1 for arm in summary.arms):
        mean = {"color": INK, "marker": "D", "linestyle": "-"}
        legend.append((_sample("accuracy-mean", mean), "mean and its 95 % interval"))
    dashed = {"color": INK, "linestyle": "--", "linewidth": 1}
    legend += [
        (
            _sample(f"accuracy-teacher{i}", dashed),
            f"{_titled(t.name)}, seed {t.seed}: {100 * t.test_accuracy:.2f} %",
        )
        for i, t in enumerate(summary.teachers)
    ]
    return Chart("accuracy", "Test accuracy after the last epoch.", (panel,), tuple(legend))


def _titled(teacher: str) -> str:
    return teacher if "teacher" in teacher.lower() else f"teacher {teacher}"


def _short(name: str) -> str:
    """Break a name into at most two lines that fit beside an axis."""
    lines = textwrap.wrap(name, 16, max_lines=2, placeholder="…") or [name]
    return "\n".join(lines)


# ---------------------------------------------------------------- SVG


def _sample(name: str, look: Mapping[str, Any]) -> str:
    """Draw a short line in the look of an arm, for a legend."""
    figure = Figure(figsize=(0.42, 0.16))
    figure.add_artist(Line2D([0.06, 0.5, 0.94], [0.5] * 3, markevery=[1], **look))
    return _svg(figure, f"sample-{name}")


def _svg(figure: Figure, name: str) -> str:
    """Write a figure as one SVG element whose ids begin with a name of their own."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        # A name may be in any script: the text stays text, and the reader's browser has the font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"]))
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return text.replace(INK, "currentColor").strip()
