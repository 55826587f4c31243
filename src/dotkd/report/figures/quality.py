"""Figures of what the students' predictions are worth: reliability, and accuracy under corruption."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from dotkd.report.figures.scene import Scene
from dotkd.report.figures.svg import INK, Chart, Panel, new_axes, to_svg
from dotkd.report.measured import Bins, Measured, bins_of, corruptions, measured, strengths, titled

SMALL = (2.15, 1.95)


def reliability(scene: Scene) -> Chart | None:
    """Draw accuracy against confidence, and how the confidences are spread; all seeds of an arm together."""
    found = {
        name: bins
        for name, runs in measured(scene.groups, scene.extras).items()
        if name in scene.drawn and (bins := bins_of(runs)) is not None
    }
    if not found:
        return None
    panels = (_calibration(scene, found), _confidences(scene, found))
    caption = f"Confidence and accuracy, all seeds of an arm together.{scene.remarks('')}"
    return Chart("reliability", caption, panels, scene.legend("reliability", list(found)))


def _calibration(scene: Scene, found: Mapping[str, Bins]) -> Panel:
    figure, axes = new_axes()
    axes.plot([0, 100], [0, 100], color=INK, linewidth=0.8, alpha=0.6)
    said = []
    for name, bins in found.items():
        filled = bins.count > 0
        confidence, accuracy = 100 * bins.confidence[filled], 100 * bins.accuracy[filled]
        axes.plot(confidence, accuracy, **scene.looks[name])
        said.append(f"{name} {accuracy[-1]:.0f} % right at {confidence[-1]:.0f} %")
    axes.set_xlabel("Confidence (%)")
    axes.set_ylabel("Right (%)")
    axes.set_title("Reliability")
    axes.set_xlim(0, 102)
    axes.set_ylim(0, 102)
    label = f"Share of right predictions by confidence, in the highest bin: {', '.join(said)}."
    return Panel(to_svg(figure, "reliability-bins"), label)


def _confidences(scene: Scene, found: Mapping[str, Bins]) -> Panel:
    figure, axes = new_axes()
    said = []
    for name, bins in found.items():
        edges = np.linspace(0, 100, len(bins.count) + 1)
        shares = 100 * bins.count / bins.count.sum()
        axes.plot((edges[:-1] + edges[1:]) / 2, shares, **scene.looks[name])
        said.append(f"{name} {shares[-1]:.0f} %")
    axes.set_xlabel("Confidence (%)")
    axes.set_ylabel("Images (%)")
    axes.set_title("Share of images")
    axes.set_xlim(0, 102)
    axes.set_ylim(bottom=0)
    label = f"Share of images by confidence, in the highest bin: {', '.join(said)}."
    return Panel(to_svg(figure, "reliability-shares"), label)


def robustness(scene: Scene) -> Chart | None:
    """Draw accuracy by the strength of each corruption."""
    found = {name: runs for name, runs in measured(scene.groups, scene.extras).items() if name in scene.drawn}
    kinds = corruptions(found)
    panels = tuple(_corruption(scene, place, kind, found) for place, kind in enumerate(kinds))
    if not panels:
        return None
    names = [name for name in found if any(strengths(found[name], kind).size for kind in kinds)]
    caption = f"Accuracy by the strength of a corruption.{scene.remarks()}"
    return Chart("robustness", caption, panels, scene.legend("robustness", names), small=True)


def _corruption(scene: Scene, place: int, kind: str, found: Mapping[str, Sequence[Measured]]) -> Panel:
    figure, axes = new_axes(SMALL)
    said = []
    for name, runs in found.items():
        table = 100 * strengths(runs, kind)
        if table.size:
            places = np.arange(1, table.shape[1] + 1)
            look = scene.looks[name]
            axes.plot(places, table.mean(axis=0), **look)
            axes.fill_between(
                places, table.min(axis=0), table.max(axis=0), color=look["color"], alpha=0.18, linewidth=0
            )
            said.append(f"{name} {table[:, -1].mean():.1f} %")
    title = titled(kind)
    axes.set_title(title)
    axes.set_xlabel("Strength")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("Accuracy (%)")
    label = f"Accuracy under {title.lower()} at the highest strength: {', '.join(said)}."
    return Panel(to_svg(figure, f"robustness-{place}"), label)
