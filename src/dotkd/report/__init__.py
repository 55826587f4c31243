"""What a set of finished runs says: statistics, a paragraph that claims no more, figures, one page.

``statistics`` turns runs into numbers, ``text`` the numbers into sentences, ``figures`` the runs into
SVG; ``page`` puts them on one self-contained page. Nothing here trains or reads a data set.
"""

from dotkd.report.page import render, write_report
from dotkd.report.statistics import Summary, summarize
from dotkd.report.text import sentences

__all__ = ["Summary", "render", "sentences", "summarize", "write_report"]
