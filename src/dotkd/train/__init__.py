"""Training: runs out of recipes, their folders, and the networks in them."""

from dotkd.train.build import build_run, check_recipe
from dotkd.train.evaluation import Evaluated, evaluate
from dotkd.train.loop import check_folder, provide_teacher, train
from dotkd.train.networks import load_student
from dotkd.train.scores import Scores, score
from dotkd.train.state import RunState, read_checkpoint, restore
from dotkd.train.step import train_epoch
from dotkd.train.teacher import teacher_recipe
from dotkd.train.tensorboard import TensorBoard

__all__ = [
    "Evaluated",
    "RunState",
    "Scores",
    "TensorBoard",
    "build_run",
    "check_folder",
    "check_recipe",
    "evaluate",
    "load_student",
    "provide_teacher",
    "read_checkpoint",
    "restore",
    "score",
    "teacher_recipe",
    "train",
    "train_epoch",
]
