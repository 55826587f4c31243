"""Training: runs out of recipes, their folders, and the networks in them.

:func:`train` and :func:`evaluate` are the verbs of the command line. :func:`build_run` and
:func:`train_epoch` are their parts, for loops of your own.
"""

from dotkd.train.build import build_run
from dotkd.train.evaluation import Evaluation, evaluate
from dotkd.train.loop import train
from dotkd.train.networks import load_student
from dotkd.train.scores import Scores, score
from dotkd.train.state import RunState
from dotkd.train.step import train_epoch

__all__ = [
    "Evaluation",
    "RunState",
    "Scores",
    "build_run",
    "evaluate",
    "load_student",
    "score",
    "train",
    "train_epoch",
]
