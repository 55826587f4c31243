"""``analyze``: the expensive measurements on finished runs, kept beside them in ``analysis.json``.

Everything is measured on the weights of the last epoch and in evaluation mode. What is measured lives in
:mod:`dotkd.analysis`; here belongs the way from a run folder to those functions and back: ``subject`` brings
a run to the state at its end, each part of the analysis has a file, and ``parts`` goes through them.
"""

from dotkd.analyze.parts import PARTS, analyze, plan

__all__ = ["PARTS", "analyze", "plan"]
