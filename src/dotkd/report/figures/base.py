"""What all figures share: the register, the look of each arm, axes and legends, and the SVG.

The label of an axes describes its panel for readers who cannot see it. Ink is ``currentColor`` on a
transparent ground, so a figure takes the colours of a light or dark page; as a file of its own it is dark on
white. Text stays text.
"""

import io
import itertools
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from dotkd.report.evidence import Evidence
from dotkd.report.statistics import Runs

INK = "#010203"  # replaced by currentColor in the SVG
PANEL, SMALL = (4.1, 2.75), (2.05, 2.2)
"""Size of a panel, two or four of which stand in a row; inches."""
# Okabe and Ito's colours that stand out from white and from near black; the plain arm is grey.
GREY, COLOURS = "#808080", ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#9a7b00")
LINES, MARKERS = ("-", "--", "-.", (0, (1, 1.2))), "osD^vXP"
LOG_FROM = 20  # ratio of highest to lowest value from which on an axis is logarithmic
_LEGEND_ROW, _LETTER, _SAMPLE = 0.19, 0.075, 0.65  # inches: a line of text, a letter, a sample with its gaps
_STYLE: dict[Any, Any] = {
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
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}

Look = dict[str, Any]


# ---------------------------------------------------------------- the register


@dataclass(frozen=True)
class Scene:
    """What figures draw: all numbers, and the look of each arm and of each base of a sweep."""

    evidence: Evidence

    @cached_property
    def arms(self) -> dict[str, Runs]:
        """The arms of figures that have a line for each."""
        return self.evidence.spoken

    @cached_property
    def labels(self) -> dict[str, str]:
        """Short names of the arms."""
        return self.evidence.comparison.labels

    @cached_property
    def bases(self) -> dict[str, str]:
        """The base that each arm was swept from, or the arm itself."""
        return self.evidence.comparison.bases

    @cached_property
    def looks(self) -> dict[str, Look]:
        """Colour, line style and marker; arms of one base share its colour."""
        return _looks(self)

    def remarks(self, spread: str = "") -> str:
        """Return the sentences of a caption on the spread over seeds and on arms that are not drawn."""
        several = any(len(runs) > 1 for runs in self.evidence.comparison.arms.values())
        left_out = len(self.arms) < len(self.evidence.comparison.arms)
        only = "Of each swept arm only the value that is best on validation images is drawn."
        return " ".join([*[spread] * (several and bool(spread)), *[only] * left_out])


Draw = Callable[[Scene], Figure | None]


@dataclass(frozen=True)
class Entry:
    """A registered figure: its section, its caption, how it is read, and its function."""

    section: str
    caption: str
    reading: str
    draw: Draw


FIGURES: dict[str, Entry] = {}
"""Key of a figure, which names its file -> its entry, in the order of a report."""


def figure(key: str, section: str, caption: str, reading: str) -> Callable[[Draw], Draw]:
    """Register a function that draws a figure, or returns None if there is nothing to draw."""

    def register(draw: Draw) -> Draw:
        FIGURES[key] = Entry(section, caption, reading, draw)
        return draw

    return register


@dataclass(frozen=True)
class Drawn:
    """A figure of a report: ``svg`` is the content of its file and its element on the page."""

    key: str
    caption: str
    reading: str
    svg: str
    width: float


def draw(scene: Scene, section: str) -> Iterator[Drawn]:
    """Draw the figures of a section that have something to show."""
    with matplotlib.rc_context(_STYLE):
        for key, entry in FIGURES.items():
            if entry.section == section and (made := entry.draw(scene)) is not None:
                caption = " ".join(filter(None, [entry.caption, str(made.get_label())]))
                labels = [str(axes.get_label()) for axes in made.axes]
                described = [entry.caption, *(label for label in labels if label and label[0] != "<")]
                width = made.get_figwidth() * 96
                yield Drawn(key, caption, entry.reading, _to_svg(made, key, " ".join(described)), width)


def note(figure: Figure, *sentences: str) -> None:
    """Add sentences to the caption of a figure."""
    figure.set_label(" ".join(filter(None, [str(figure.get_label()), *sentences])))


def _to_svg(figure: Figure, key: str, description: str) -> str:
    """Write a figure as one SVG element; ids begin with the key, so that figures can share a page."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        # A name may be in any script: the reader's browser has the font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        if (layout := figure.get_layout_engine()) is not None:
            layout.execute(figure)
            figure.set_layout_engine(None)  # or the figure is laid out and drawn twice
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"]))
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(<image\b[^>]*?) id="[^"]*"', r"\1", text)  # equal pictures would share it
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", text)
    # A hundredth of a point is finer than any screen, at half the size of six decimals.
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
    text = text.replace(INK, "currentColor").replace("*{stroke-linejoin", f"#svg-{key} *{{stroke-linejoin")
    alone = "<style>svg:root{color:#1d2126;background:#fff}</style>"
    head = f'<svg id="svg-{key}" role="img" aria-label="{escape(description)}"'
    return text.strip().replace("<svg", head, 1).replace(">", f">{alone}", 1) + "\n"


# ---------------------------------------------------------------- looks and legends


def _looks(scene: Scene) -> dict[str, Look]:
    summary = scene.evidence.summary
    members: dict[str, list[str]] = {}
    for arm in summary.arms:
        members.setdefault(scene.bases[arm.name], []).append(arm.name)
    looks: dict[str, Look] = {}
    colours = itertools.cycle(COLOURS)
    for place, (base, arms) in enumerate(members.items()):
        grey = place == 0 and summary.arms[0].kind == "plain"
        colour = GREY if grey else next(colours)
        # The first arm has the base's line and marker too: it has the base's name, or else it is drawn.
        arms.sort(key=lambda name: (name != base, name not in scene.arms))
        for number, name in enumerate([base, *(name for name in arms if name != base)]):
            later = place + max(number - (base not in arms), 0)
            looks[name] = {
                "color": colour,
                "linestyle": LINES[later % len(LINES)],
                "marker": MARKERS[later % len(MARKERS)],
            }
    return looks


def arm_legend(scene: Scene, figure: Figure, names: Sequence[str]) -> None:
    """Name the arms of a figure."""
    legend(figure, {scene.labels[name]: scene.looks[name] for name in names})


def legend(figure: Figure, looks: Mapping[str, Look]) -> None:
    """Set the legend above the panels, on as many lines as it needs, and make room for it."""
    names = [short(name, width=44) for name in looks]
    lines = [line for name in names for line in name.split("\n")]
    wide = _SAMPLE + _LETTER * max(map(len, lines), default=0)
    columns = max(1, min(len(names), int(figure.get_figwidth() / wide)))
    tall = max((name.count("\n") + 1 for name in names), default=0)
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * tall * -(-len(names) // columns))
    handles = [Line2D([], [], **look) for look in looks.values()]
    figure.legend(handles, names, loc="outside upper left", ncols=columns, handlelength=3)


def short(name: str, lines: int = 2, width: int = 24) -> str:
    """Break a name into a few lines."""
    return "\n".join(textwrap.wrap(name, width, max_lines=lines, placeholder="…"))


# ---------------------------------------------------------------- axes


def panels(count: int, columns: int = 2, size: tuple[float, float] = PANEL) -> tuple[Figure, list[Axes]]:
    """Make a figure with some panels in rows; the size is that of a panel, in inches."""
    columns = min(columns, count)
    rows = -(-count // columns)
    room = ConstrainedLayoutEngine(hspace=0.06)
    figure = Figure(figsize=(columns * size[0], rows * size[1]), layout=room)
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in every[count:]:
        spare.remove()
    return figure, every[:count]


def is_wide(values: Sequence[float]) -> bool:
    """Tell whether values belong on a logarithmic axis."""
    return bool(len(values)) and min(values) > 0 and max(values) > LOG_FROM * min(values)


def make_log(axes: Axes, which: str) -> None:
    """Make the ``"x"`` or ``"y"`` axis logarithmic, with plain numbers at 1, 2 and 5."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1e3 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def set_title(axes: Axes, title: str, shown: Sequence[float] = ()) -> None:
    """Set the title of a panel; makes the y axis logarithmic where the shown values are far apart."""
    wide = is_wide(shown)
    if wide:
        make_log(axes, "y")
    axes.set_title(f"{title} (log scale)" if wide else title)


def band(axes: Axes, x: Any, low: Any, high: Any, look: Look) -> None:
    """Fill the area from the lowest to the highest seed."""
    axes.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0)


def colour_scale(
    figure: Figure, panels: Sequence[Axes], edges: Sequence[float], colours: ListedColormap, label: str
) -> None:
    """Set one scale of colours below all panels, and make room for it."""
    figure.set_figheight(figure.get_figheight() + 0.65)
    shown = ScalarMappable(BoundaryNorm(edges, len(edges) - 1), colours)
    scale = figure.colorbar(shown, ax=panels, location="bottom", aspect=40, shrink=0.7, label=label)
    scale.set_ticks(list(edges[::2]), labels=list(map(signed, edges[::2])))


def signed(value: float) -> str:
    """Write a number with three digits and a minus sign."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
