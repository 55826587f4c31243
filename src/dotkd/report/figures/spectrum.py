"""The spectra of the Hessians: for each loss a density of eigenvalues, a line for each arm."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import FuncFormatter, NullFormatter

from dotkd.report.figures.scene import Scene
from dotkd.report.figures.svg import INK, Chart, Panel, new_axes, to_svg
from dotkd.report.inputs import Spectrum
from dotkd.report.measured import Measured, measured

TITLES = {"task": "Task loss", "distill": "Distillation loss"}
POINTS = 300
_WIDTH = 0.02  # of a bump, as a share of the range that the panel shows
_FLOOR = 1e-9  # of the highest density: nothing below it is drawn

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Nodes:
    """The quadratures of all seeds of an arm together; the weights add up to 1."""

    nodes: Numbers
    weights: Numbers


def spectrum(scene: Scene) -> Chart | None:
    """Draw the density of the eigenvalues of each loss, on a logarithmic axis."""
    found = {name: runs for name, runs in measured(scene.groups, scene.extras).items() if name in scene.drawn}
    plans = {}
    for loss in TITLES:
        spectra = {
            name: nodes for name, runs in found.items() if (nodes := _together(runs, loss)) is not None
        }
        if spectra:
            plans[loss] = spectra
    if not plans:
        return None
    panels = tuple(_panel(scene, loss, spectra) for loss, spectra in plans.items())
    names = [name for name in found if any(name in spectra for spectra in plans.values())]
    caption = f"Density of the eigenvalues of the Hessian at the end of training.{scene.remarks(_MEANS)}"
    return Chart("spectrum", caption, panels, scene.legend("spectrum", names))


_MEANS = " Lines are means over seeds."


def _together(runs: Sequence[Measured], loss: str) -> _Nodes | None:
    spectra = [_spectrum_of(run, loss) for run in runs]
    known = [one for one in spectra if one is not None]
    if not known:
        return None
    weights = [np.array(one.weights) / (sum(one.weights) * len(known)) for one in known]
    return _Nodes(np.concatenate([np.array(one.nodes) for one in known]), np.concatenate(weights))


def _spectrum_of(run: Measured, loss: str) -> Spectrum | None:
    part = (run.analysis.sharpness or {}).get(loss)
    return part.spectrum if part and part.spectrum and sum(part.spectrum.weights) else None


def density(nodes: Numbers, weights: Numbers, grid: Numbers, width: float) -> Numbers:
    """Smooth weighted nodes with Gaussian bumps.

    Args:
        nodes: ``[m]``.
        weights: ``[m]``, with sum 1.
        grid: ``[points]``, where the density is wanted.
        width: Standard deviation of the bumps.

    Returns:
        ``[points]``; its integral over all numbers is 1.
    """
    bumps = np.exp(-(((grid[:, None] - nodes) / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))
    smooth: Numbers = bumps @ weights
    return smooth


def _floor(found: Mapping[str, _Nodes], shown: Mapping[str, Numbers], width: float) -> float:
    """Where the axis begins: so low that the bump at either end of each arm is seen, one in millions."""
    ends = [one.weights[end(one.nodes)] for one in found.values() for end in (np.argmin, np.argmax)]
    lone = float(min(weight for weight in ends if weight > 0)) if any(ends) else 0.0
    highest = max(float(values.max()) for values in shown.values())
    return max(0.3 * lone / (width * math.sqrt(2 * math.pi)), _FLOOR * highest)


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power(value: float) -> str:
    return f"10{str(round(math.log10(value))).translate(_RAISED)}"


def _panel(scene: Scene, loss: str, found: Mapping[str, _Nodes]) -> Panel:
    nodes = np.concatenate([one.nodes for one in found.values()])
    low, high = float(nodes.min()), float(nodes.max())
    # One width for all arms, or their heights could not be compared.
    width = _WIDTH * ((high - low) or abs(high) or 1.0)
    grid = np.linspace(low - 5 * width, high + 5 * width, POINTS)
    shown = {name: density(one.nodes, one.weights, grid, width) for name, one in found.items()}
    floor = _floor(found, shown, width)
    figure, axes = new_axes()
    axes.axvline(0, color=INK, linewidth=0.8, alpha=0.6)
    said = []
    for place, (name, values) in enumerate(shown.items()):
        every = POINTS // 8
        axes.plot(
            grid,
            np.where(values > floor, values, np.nan),
            **scene.looks[name] | {"linewidth": 1.2},
            markevery=(place * 5 % every, every),
        )
        said.append(f"{name} from {found[name].nodes.min():.3g} to {found[name].nodes.max():.3g}")
    axes.set_yscale("log")
    axes.set_ylim(bottom=floor)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("Eigenvalue")
    axes.set_ylabel("Density (log scale)")
    axes.set_title(TITLES[loss])
    label = f"{TITLES[loss]}, eigenvalues of the Hessian as far as they were found: {', '.join(said)}."
    return Panel(to_svg(figure, f"spectrum-{loss}"), label)
