"""The figures of a report: each is one matplotlib figure and one SVG file, which the page holds too.

To add a figure, write a function under ``@figure(KEY, SECTION, CAPTION, READING)`` in ``training`` or
``analyses``; page, files and numbering follow.
"""

from dotkd.report.figures import analyses, training  # noqa: F401  # they register the figures
from dotkd.report.figures.base import FIGURES, Drawn, Scene, draw

__all__ = ["FIGURES", "Drawn", "Scene", "draw"]
