"""Curves over epochs: the losses, in training and on validation images, and the gradients."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import MaxNLocator

from dotkd.report.figures.scene import Scene
from dotkd.report.figures.svg import INK, Chart, Panel, is_wide, make_log, new_axes, to_svg
from dotkd.report.statistics import known
from dotkd.runs import RunRecord

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A column of an arm: for every epoch [E] mean, lowest and highest value over its seeds."""

    epochs: Numbers
    mean: Numbers
    low: Numbers
    high: Numbers


@dataclass(frozen=True)
class _Plan:
    """What a panel is to show: a column of the metrics, and a line to read it against."""

    column: str
    title: str
    line: float | None = None


def losses(scene: Scene) -> Chart | None:
    """Draw the losses by epoch, raw: in training and, where there are any, on validation images."""
    distils = any(arm.kind != "plain" for arm in scene.summary.arms)
    plans = [
        _Plan("train_task_loss", "Task loss, training"),
        _Plan("train_distill_loss", "Distillation loss, training"),
        _Plan("validation_loss", "Task loss, validation"),
        _Plan("validation_distill_loss", "Distillation loss, validation"),
    ]
    what = "The two losses" if distils else "The loss"
    return _chart(scene, "losses" if distils else "task-loss", f"{what}, raw, by epoch.", plans)


def gradients(scene: Scene) -> Chart | None:
    """Draw how the gradients of the two losses lie to each other, to their sum and to the last step."""
    plans = [
        _Plan("gradient_cosine", "Cosine between the gradients", 0.0),
        _Plan("gradient_norm_ratio", "Norm ratio, task to distillation", 1.0),
        _Plan("gradient_sign_disagreement", "Share of coordinates with opposite signs", 0.5),
        _Plan("task_total_cosine", "Cosine, task gradient and the sum of both", 0.0),
        _Plan("distill_total_cosine", "Cosine, distillation gradient and the sum", 0.0),
        _Plan("task_update_cosine", "Cosine, descent of the task loss and last step", 0.0),
        _Plan("distill_update_cosine", "Cosine, descent of the distillation loss and step", 0.0),
    ]
    caption = "The gradients of the two losses on one fixed probe batch, the same for all arms."
    return _chart(scene, "gradients", caption, plans)


def curves(groups: Mapping[str, Sequence[RunRecord]], column: str) -> dict[str, Curve]:
    """Take the mean of a column over seeds.

    Args:
        groups: name of an arm -> its runs.
        column: of the metrics.

    Returns:
        Curves of the arms that have the column; a run that lacks an epoch does not count in it.
    """
    found = {}
    for name, runs in groups.items():
        rows = [{row["epoch"]: known(row.get(column)) for row in run.metrics} for run in runs]
        rows = [{epoch: value for epoch, value in row.items() if value is not None} for row in rows]
        epochs = sorted(set().union(*rows))
        if epochs:
            table = np.array([[row.get(epoch, math.nan) for epoch in epochs] for row in rows], dtype=float)
            # Some run has each of these epochs, so that no column is empty.
            over_seeds = (reduce(table, axis=0) for reduce in (np.nanmean, np.nanmin, np.nanmax))
            found[name] = Curve(np.array(epochs, dtype=float), *over_seeds)
    return found


def _chart(scene: Scene, key: str, caption: str, plans: Sequence[_Plan]) -> Chart | None:
    groups = {name: scene.groups[name] for name in scene.drawn}
    shown = {plan: curves(groups, plan.column) for plan in plans}
    panels = tuple(_panel(scene, key, plan, found) for plan, found in shown.items() if found)
    if not panels:
        return None
    names = [name for name in groups if any(name in found for found in shown.values())]
    of_training = any(plan.column.startswith("train_") for plan, found in shown.items() if found)
    return Chart(key, caption + scene.remarks(), panels, scene.legend(key, names), of_training=of_training)


def _panel(scene: Scene, key: str, plan: _Plan, shown: Mapping[str, Curve]) -> Panel:
    figure, axes = new_axes()
    if plan.line is not None:
        axes.axhline(plan.line, color=INK, linewidth=0.8, alpha=0.6)
    for place, (arm, curve) in enumerate(shown.items()):
        look = scene.looks[arm]
        every = max(1, len(curve.epochs) // 6)
        # Arms start their markers at different epochs, so that they do not cover each other.
        axes.plot(curve.epochs, curve.mean, **look, markevery=(place % every, every))
        axes.fill_between(curve.epochs, curve.low, curve.high, color=look["color"], alpha=0.18, linewidth=0)
    axes.set_xlabel("Epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = plan.title
    if is_wide(np.concatenate([curve.mean for curve in shown.values()]).tolist()):
        make_log(axes, "y")
        title = f"{title} (log scale)"
    axes.set_title(title)
    if all(len(curve.epochs) == 1 for curve in shown.values()):
        axes.set_xticks([curve.epochs[0] for curve in shown.values()])
    ends = [f"{arm} ends at {curve.mean[-1]:.3g}" for arm, curve in shown.items()]
    label = f"{plan.title} by epoch: {', '.join(ends)}."
    return Panel(to_svg(figure, f"{key}-{plan.column}"), label)
