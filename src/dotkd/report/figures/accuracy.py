"""The accuracies: every seed of every arm, means with their intervals, and the teachers as lines."""

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dotkd.report.figures.scene import Scene
from dotkd.report.figures.svg import INK, Chart, Panel, new_axes, sample, short, to_svg
from dotkd.report.statistics import Summary

_FEW = 6


def accuracy(scene: Scene) -> Chart:
    """Draw the test accuracies after the last epoch."""
    last = [
        name for one in scene.series for name in one.names
    ]  # below the others, in order of their values, as in the table
    arms = sorted(scene.summary.arms, key=lambda arm: last.index(arm.name) + 1 if arm.name in last else 0)
    figure, axes = new_axes((4.6, 0.75 + (0.55 if len(arms) <= _FEW else 0.42) * len(arms)))
    for place, arm in enumerate(arms):
        colour = scene.looks[arm.name]["color"]
        seeds = [100 * run.results["last"]["test_accuracy"] for run in scene.groups[arm.name]]
        axes.plot(seeds, [place - 0.17] * len(seeds), "o", color=colour, alpha=0.75, markeredgewidth=0)
        if arm.test.low is not None and arm.test.high is not None:
            axes.plot([100 * arm.test.low, 100 * arm.test.high], [place + 0.12] * 2, color=colour)
            axes.plot(100 * arm.test.mean, place + 0.12, "D", color=colour, markersize=5)
    for teacher in scene.summary.teachers:
        axes.axvline(100 * teacher.test_accuracy, color=INK, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(arms)), [short(scene.labels[arm.name]) for arm in arms])
    _finish(axes, len(arms))
    means = ", ".join(f"{arm.name} {100 * arm.test.mean:.2f} %" for arm in arms)
    panel = Panel(to_svg(figure, "accuracy"), f"Test accuracy of each arm, means: {means}.")
    return Chart("accuracy", "Test accuracy after the last epoch.", (panel,), _legend(scene.summary))


def _finish(axes: Axes, count: int) -> None:
    axes.set_ylim(count - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.06)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, 0.0), min(high, 100.0))
    axes.set_xlabel("Test accuracy, last epoch (%)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(6))


def _legend(summary: Summary) -> tuple[tuple[str, str], ...]:
    seed = {"color": INK, "marker": "o", "linestyle": "", "alpha": 0.75}
    legend = [(sample("accuracy-seed", seed), "one seed")]
    if any(arm.test.n > 1 for arm in summary.arms):
        mean = {"color": INK, "marker": "D", "linestyle": "-"}
        legend.append((sample("accuracy-mean", mean), "mean and its 95 % interval"))
    dashed = {"color": INK, "linestyle": "--", "linewidth": 1}
    for place, teacher in enumerate(summary.teachers):
        name = teacher.name if "teacher" in teacher.name.lower() else f"teacher {teacher.name}"
        said = f"{name}, seed {teacher.seed}: {100 * teacher.test_accuracy:.2f} %"
        legend.append((sample(f"accuracy-teacher{place}", dashed), said))
    return tuple(legend)
