"""What a set of finished runs says: statistics, sentences that claim no more, tables, figures, one page.

``inputs`` reads what lies beside the runs; ``statistics``, ``sweep``, ``tradeoff`` and ``measured`` turn all
of it into numbers, ``text`` and ``findings`` the numbers into sentences, ``tables`` and ``figures`` into what
their names say. ``document`` puts them in order, ``page`` and ``markdown`` write them. Nothing here trains or
reads a data set.
"""

from dotkd.report.document import lead
from dotkd.report.inputs import Extras, read_extras
from dotkd.report.page import render
from dotkd.report.statistics import Summary, summarize
from dotkd.report.text import sentences
from dotkd.report.write import write_report

__all__ = ["Extras", "Summary", "lead", "read_extras", "render", "sentences", "summarize", "write_report"]
