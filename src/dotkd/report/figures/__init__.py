"""The figures of a report, as inline SVG.

Every panel is an SVG of its own, so that a page can put panels beside or below each other. An arm has its
colour, line style and marker in every panel; the legend is a list of names with small SVG samples, which a
page sets as text.
"""

from collections.abc import Iterator, Sequence

import matplotlib

from dotkd.report.figures.accuracy import accuracy
from dotkd.report.figures.curves import gradients, losses
from dotkd.report.figures.interpolation import interpolations
from dotkd.report.figures.landscape import landscapes
from dotkd.report.figures.layers import layers
from dotkd.report.figures.quality import reliability, robustness
from dotkd.report.figures.scene import Scene, make_scene
from dotkd.report.figures.spectrum import spectrum
from dotkd.report.figures.svg import STYLE, Chart, Panel
from dotkd.report.figures.sweep import sweep
from dotkd.report.figures.tradeoff import tradeoff
from dotkd.report.inputs import Extras
from dotkd.report.statistics import Summary
from dotkd.runs import RunRecord

__all__ = ["Chart", "Panel", "charts"]


def charts(runs: Sequence[RunRecord], summary: Summary, extras: Extras | None = None) -> list[Chart]:
    """Draw the figures of a report.

    Args:
        runs: the runs that the summary was made of.
        summary: their numbers.
        extras: what was found beside the runs.

    Returns:
        The accuracies, the sweep, the trade-off, the losses, the gradients, their layers, the surfaces, the
        spectra, the lines between students, reliability and robustness: those that there is something to
        draw of.
    """
    scene = make_scene(runs, summary, extras or Extras())
    with matplotlib.rc_context(STYLE):
        return [chart for chart in _charts(scene) if chart is not None]


def _charts(scene: Scene) -> Iterator[Chart | None]:
    yield accuracy(scene)
    yield sweep(scene)
    yield tradeoff(scene)
    yield losses(scene)
    yield gradients(scene)
    yield layers(scene)
    yield from landscapes(scene)
    yield spectrum(scene)
    yield from interpolations(scene)
    yield reliability(scene)
    yield robustness(scene)
