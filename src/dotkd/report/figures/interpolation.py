"""The lines between students: losses and accuracy on the way from one to the other."""

from collections.abc import Iterator, Sequence

import numpy as np

from dotkd.report.between import WORSE, Lines, finite, lines_of
from dotkd.report.figures.scene import Scene
from dotkd.report.figures.svg import Chart, Panel, is_wide, make_log, new_axes, to_svg
from dotkd.report.measured import measured

_SPREAD = " Lines are means over the runs that were measured, bands reach from the lowest to the highest."
TITLES = {"task": "Task loss", "distill": "Distillation loss", "accuracy": "Accuracy (%)"}


def interpolations(scene: Scene) -> Iterator[Chart]:
    """Draw what lies between students.

    Args:
        scene: what figures share.

    Yields:
        A chart for each arm from which lines start: to runs with the same seed, and to others.
    """
    every = [line for line in lines_of(measured(scene.groups, scene.extras)) if line.arm in scene.drawn]
    for place, (start, whose) in enumerate(dict.fromkeys((line.start, line.whose) for line in every)):
        lines = [line for line in every if (line.start, line.whose) == (start, whose)]
        panels = tuple(
            _panel(scene, f"interpolation{place}-{measure}", measure, shown)
            for measure in WORSE
            if (shown := [line for line in lines if _known(line, measure)])
        )
        if panels:
            caption = (
                f"On the straight line from a student of {scene.labels.get(start, start)}, at 0, to one of "
                f"each arm {whose}, at 1.{scene.remarks(_SPREAD)}"
            )
            names = [line.arm for line in lines if any(_known(line, measure) for measure in WORSE)]
            yield Chart(
                f"interpolation{place or ''}", caption, panels, scene.legend(f"interpolation{place}", names)
            )


def _known(line: Lines, measure: str) -> bool:
    return measure in line.values and bool(np.isfinite(line.values[measure]).all(axis=1).any())


def _panel(scene: Scene, key: str, measure: str, lines: Sequence[Lines]) -> Panel:
    figure, axes = new_axes()
    said, shown = [], []
    for place, line in enumerate(lines):
        table = line.values[measure] * (100 if measure == "accuracy" else 1)
        table = table[np.isfinite(table).all(axis=1)]
        look = scene.looks[line.arm]
        axes.plot(line.steps, table.mean(axis=0), **look, markevery=(place % 4, 4))
        axes.fill_between(
            line.steps, table.min(axis=0), table.max(axis=0), color=look["color"], alpha=0.18, linewidth=0
        )
        shown += table.mean(axis=0).tolist()
        middle = table.mean(axis=0)[len(line.steps) // 2]
        barrier = float(np.mean(finite(line.barriers(measure)))) * (100 if measure == "accuracy" else 1)
        said.append(f"{line.arm} {middle:.3g} half way, barrier {barrier:.3g}")
    title = TITLES[measure]
    if measure != "accuracy" and is_wide(shown):
        make_log(axes, "y")
        title = f"{title} (log scale)"
    axes.set_title(title)
    axes.set_xlabel("Place on the line")
    return Panel(to_svg(figure, key), f"{TITLES[measure]} on the line: {', '.join(said)}.")
