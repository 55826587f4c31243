"""The surfaces of the losses around the students, on one scale of colours for all arms."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dotkd.report.figures.scene import Scene
from dotkd.report.figures.svg import INK, Chart, Panel, is_wide, new_axes, short, to_svg

COLOURS = "viridis"  # even steps of lightness, for every kind of colour vision
LEVELS = 12
_FINE = 31  # points on a side from which on the outlines of the areas outweigh a picture of them
SIZE = (2.15, 2.2)
TITLES = {"task": "task loss", "distill": "distillation loss"}

Grid = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Surface:
    """A loss at ``steps`` along two directions around a student."""

    name: str
    seed: int
    steps: Grid
    grid: Grid


@dataclass(frozen=True)
class _Frame:
    """What the panels of a figure share: edges of the colours, length of the axes, lines of the titles."""

    edges: Grid
    reach: float
    lines: int


def landscapes(scene: Scene) -> Iterator[Chart]:
    """Draw the task and the distillation surface, of the first analysed seed of each arm.

    Args:
        scene: what figures share.

    Yields:
        A chart for each loss that has a surface.
    """
    for loss, title in TITLES.items():
        surfaces = list(_surfaces(scene, loss))
        finite = [surface.grid[np.isfinite(surface.grid)] for surface in surfaces]
        values = np.concatenate(finite) if finite else np.empty(0)
        if not values.size:
            continue
        frame = _Frame(
            edges=levels(values),
            reach=max(float(np.abs(surface.steps).max()) for surface in surfaces),
            lines=max(_lines(short(surface.name)) for surface in surfaces),
        )
        panels = tuple(
            _panel(f"landscape-{loss}-{place}", surface, frame) for place, surface in enumerate(surfaces)
        )
        caption = f"The {title} around the end of training, on a plane of two random directions."
        scale = _scale(f"landscape-{loss}-scale", title, frame.edges)
        yield Chart(f"landscape-{loss}", caption + scene.remarks(""), panels, (), scale, small=True)


def levels(values: Grid) -> Grid:
    """Choose where one colour ends and the next begins.

    Args:
        values: finite numbers, at least one, of all surfaces together.

    Returns:
        Edges ``[LEVELS + 1]`` from the lowest value to the highest; in equal ratios over a wide range.
    """
    low, high = float(values.min()), float(values.max())
    if is_wide([low, high]):
        return np.geomspace(low, high, LEVELS + 1)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # a plane
        high = low + max(abs(low), 1.0) * 1e-3
    return np.linspace(low, high, LEVELS + 1)


def _surfaces(scene: Scene, loss: str) -> Iterator[_Surface]:
    for name in scene.drawn:
        for run in scene.groups[name]:
            found = scene.extras.analyses.get(run.path)
            landscape = found.landscape if found else None
            surface = getattr(landscape, loss, None)
            if landscape and surface is not None:
                rows = [[math.nan if value is None else value for value in row] for row in surface]
                steps, grid = np.array(landscape.steps, dtype=float), np.array(rows, dtype=float)
                yield _Surface(scene.labels[name], run.seed, steps, grid)
                break


def _lines(text: str) -> int:
    return text.count("\n") + 1


def _colours() -> Sequence[str]:
    return [to_hex(colour) for colour in matplotlib.colormaps[COLOURS](np.linspace(0, 1, LEVELS))]


def _panel(key: str, surface: _Surface, frame: _Frame) -> Panel:
    figure, axes = new_axes(SIZE)
    steps, reach = surface.steps, frame.reach
    # Rows are steps along the first direction, which runs to the right.
    masked = np.ma.masked_invalid(surface.grid.T)
    areas = axes.contourf(steps, steps, masked, frame.edges, colors=_colours())
    # Their edges hide the seams between areas, and are what remains on grey paper.
    areas.set_edgecolor("#ffffffb0")
    areas.set_linewidth(0.4)
    if len(steps) > _FINE:
        areas.set_rasterized(True)
        figure.set_dpi(160)
    axes.plot(0, 0, "+", color="white", markersize=9, markeredgewidth=2.6)
    axes.plot(0, 0, "+", color="black", markersize=8, markeredgewidth=1.2)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    ticks = [-reach, 0.0, reach]
    axes.set_xticks(ticks, list(map(_shown, ticks)))
    axes.set_yticks(ticks, list(map(_shown, ticks)))
    name = short(surface.name)
    above = "\n" * (frame.lines - _lines(name))  # so that all panels have the same height
    axes.set_title(f"{above}{name}\nseed {surface.seed}", fontsize=8.5)
    label = f"{surface.name}, seed {surface.seed}: {_said(surface.grid)}"
    return Panel(to_svg(figure, key, decimals=1), label)


def _said(grid: Grid) -> str:
    finite = grid[np.isfinite(grid)]
    if not finite.size:
        return "no finite value."
    middle = grid[tuple(size // 2 for size in grid.shape)]
    centre = f"{middle:.3g} in the middle, " if math.isfinite(middle) else ""
    return f"{centre}lowest {finite.min():.3g}, highest {finite.max():.3g}."


def _scale(name: str, title: str, edges: Grid) -> Panel:
    figure = Figure(figsize=(4.4, 0.62), layout="constrained")
    axes = figure.add_subplot()
    for place, colour in enumerate(_colours()):
        axes.add_patch(Rectangle((place, 0), 1, 1, facecolor=colour, edgecolor=colour, linewidth=0.3))
    axes.set_xlim(0, LEVELS)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xticks(range(0, LEVELS + 1, 2), [_shown(edge) for edge in edges[::2]])
    axes.tick_params(length=2, color=INK)
    axes.set_title(title[0].upper() + title[1:])
    label = f"Colours of the {title}, from {_shown(edges[0])} to {_shown(edges[-1])}."
    return Panel(to_svg(figure, name), label)


def _shown(value: float) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
