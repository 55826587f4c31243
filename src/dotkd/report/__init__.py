"""Reports of finished runs: statistics, sentences that claim no more, tables, figures, one page.

``read`` sorts runs into arms; ``statistics`` and ``evidence`` compute the numbers; ``findings``, ``tables``
and ``figures`` say and show them; ``page`` writes the files. Nothing here trains or reads a data set.
"""

from dotkd.report.findings import lead
from dotkd.report.page import render, write_report
from dotkd.report.read import Comparison, read_comparison
from dotkd.report.statistics import Summary, summarize

__all__ = ["Comparison", "Summary", "lead", "read_comparison", "render", "summarize", "write_report"]
