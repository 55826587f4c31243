"""The gradients layer by layer: a map of their cosine for each arm, layers downwards, epochs to the right."""

import math

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dotkd.report.figures.scene import Scene
from dotkd.report.figures.svg import INK, Chart, Panel, new_axes, short, to_svg
from dotkd.report.layers import Layers, layers_of

COLOURS = "PuOr"  # two hues that every kind of colour vision tells apart, lightest in the middle
LEVELS = 10
SIZE = (2.15, 2.2)
_FEW, _MOST = 8, 40  # layers that each have a tick; layers and epochs that have a cell of their own


def layers(scene: Scene) -> Chart | None:
    """Draw the cosine between the two gradients, layer by layer and epoch by epoch; means over seeds."""
    found = layers_of({name: scene.groups[name] for name in scene.drawn}, scene.extras.gradients)
    found = {name: one for name, one in found.items() if np.isfinite(one.mean("cosine")).any()}
    if not found:
        return None
    lines = max(_lines(short(scene.labels[name])) for name in found)
    panels = tuple(
        _panel(f"layers-{place}", scene.labels[name], one, lines)
        for place, (name, one) in enumerate(found.items())
    )
    first = next(iter(found.values()))
    named = f"1 is {first.names[0]}"
    if len(first.names) > 1:
        named += f" at the input, {len(first.names)} is {first.names[-1]} at the output"
    where = "" if all(one.names == first.names for one in found.values()) else f" of {next(iter(found))}"
    caption = (
        f"Cosine between the two gradients in each layer, after each epoch, on the probe batch. Layer{where} "
        f"{named}.{scene.remarks(_MEANS)}"
    )
    return Chart("layers", caption, panels, (), _scale(), small=True)


_MEANS = " Colours are means over seeds."


def _lines(text: str) -> int:
    return text.count("\n") + 1


def _colours() -> ListedColormap:
    return ListedColormap(matplotlib.colormaps[COLOURS](np.linspace(0.02, 0.98, LEVELS)))


def _edges() -> list[float]:
    return [float(edge) for edge in np.linspace(-1, 1, LEVELS + 1)]


def _panel(key: str, name: str, found: Layers, lines: int) -> Panel:
    cosine = found.mean("cosine")
    figure, axes = new_axes(SIZE)
    # A picture: as areas, the maps of many arms would be the heaviest part of the page.
    axes.imshow(
        np.ma.masked_invalid(cosine),
        cmap=_colours(),
        norm=BoundaryNorm(_edges(), LEVELS),
        aspect="auto",
        interpolation="none",
        extent=(0.5, len(found.epochs) + 0.5, len(found.names) + 0.5, 0.5),
    )
    _axes(axes, found)
    title = short(name)
    axes.set_title("\n" * (lines - _lines(title)) + title, fontsize=8.5)
    return Panel(to_svg(figure, key), f"{name}: {_said(found)}")


def _axes(axes: Axes, found: Layers) -> None:
    count = len(found.names)
    if count <= _FEW:
        axes.set_yticks(range(1, count + 1))
    else:
        axes.set_yticks(sorted({1, *(round(1 + (count - 1) * part / 4) for part in range(1, 5))}))
    axes.set_ylabel("Layer")
    axes.set_xlabel("Epoch")
    axes.grid(visible=False)
    places = range(1, len(found.epochs) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    if found.epochs != tuple(places) or len(found.epochs) == 1:
        axes.set_xticks([1, len(found.epochs)], [str(found.epochs[0]), str(found.epochs[-1])])


def _said(found: Layers) -> str:
    last = found.mean("cosine")[:, -1]
    if not np.isfinite(last).any():
        return f"no cosine after epoch {found.epochs[-1]}."
    low, high = int(np.nanargmin(last)), int(np.nanargmax(last))
    return (
        f"after epoch {found.epochs[-1]} the cosine is lowest in {found.names[low]}, {last[low]:.2f}, and "
        f"highest in {found.names[high]}, {last[high]:.2f}; it is below 0 in "
        f"{sum(value < 0 for value in last if math.isfinite(value))} of {len(found.names)} layers."
    )


def _scale() -> Panel:
    figure = Figure(figsize=(4.4, 0.62), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(
        np.arange(LEVELS)[None] + 0.5,
        cmap=_colours(),
        norm=BoundaryNorm(range(LEVELS + 1), LEVELS),
        aspect="auto",
        interpolation="none",
        extent=(-1, 1, 0, 1),
    )
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xticks(
        [-1, -0.6, -0.2, 0.2, 0.6, 1],
        [f"{x:g}".replace("-", "\N{MINUS SIGN}") for x in (-1, -0.6, -0.2, 0.2, 0.6, 1)],
    )
    axes.tick_params(length=2, color=INK)
    axes.set_title("Cosine")
    return Panel(to_svg(figure, "layers-scale"), "Colours of the cosine, from -1 to 1; the lightest is at 0.")
