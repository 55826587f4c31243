"""What every figure is made of: one style, panels that are SVG elements, and legends as lists of names.

Lines and letters are in ``currentColor`` and the background is transparent, so that a figure reads on light
and on dark paper; the text stays text.
"""

import io
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

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


@dataclass(frozen=True)
class Panel:
    """One SVG element, and what it shows in words for those who do not see it."""

    svg: str
    label: str


@dataclass(frozen=True)
class Chart:
    """A figure: ``key`` names it (a key of text.READINGS, and a number from the second of its kind on).

    ``legend`` pairs a sample SVG with a name; ``scale`` is a colour scale that all panels share; ``small``
    panels stand several in a row; ``of_training`` says whether losses of training images are in it.
    """

    key: str
    caption: str
    panels: tuple[Panel, ...]
    legend: tuple[tuple[str, str], ...]
    scale: Panel | None = None
    small: bool = False
    of_training: bool = False


def new_axes(size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    """Make a figure with one pair of axes; inches."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def is_wide(values: Sequence[float]) -> bool:
    """Say whether values belong on a logarithmic axis."""
    return bool(len(values)) and min(values) > 0 and max(values) > LOG_FROM * min(values)


def make_log(axes: Axes, which: str) -> None:
    """Make an axis logarithmic, with plain numbers at 1, 2 and 5.

    Args:
        axes: the axes.
        which: ``"x"`` or ``"y"``.
    """
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    steps = (1, 2, 5) if high < 1e3 * low else (1,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def short(name: str, lines: int = 2, width: int = 24) -> str:
    """Break a name into a few lines that fit beside an axis or above a small panel."""
    return "\n".join(textwrap.wrap(name, width, max_lines=lines, placeholder="…"))


def sample(name: str, look: Mapping[str, Any]) -> str:
    """Draw a short line in the look of an arm, for a legend."""
    figure = Figure(figsize=(0.42, 0.16))
    figure.add_artist(Line2D([0.06, 0.5, 0.94], [0.5] * 3, markevery=[1], **look))
    return to_svg(figure, f"sample-{name}")


def to_svg(figure: Figure, name: str, decimals: int = 2) -> str:
    """Write a figure as one SVG element whose ids begin with a name of their own."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        # A name may be in any script: the text stays text, and the reader's browser has the font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"]))
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    # A hundredth of a point is finer than any screen, and half the size of six decimals.
    digits = re.compile(rf"(\.\d{{{decimals}}})\d+")
    text = re.sub(r' d="[^"]*"', lambda path: digits.sub(r"\1", path[0]), text)
    return text.replace(INK, "currentColor").strip()
