"""Distillation methods by name.

A new method is one function or one small class under ``@register("name")``, in the file of its kind:
``logit``, ``feature``, or one of its own like ``simkd`` (then imported here).
"""

from dotkd.methods.base import FunctionMethod, Method, Outputs, Setting, TaskMethod
from dotkd.methods.feature import CRD, OFD, VID, FitNet, ReviewKD
from dotkd.methods.logit import DKD, KD, DeepKD, LabelSmoothing, TeacherFreeKD
from dotkd.methods.registry import create_method, has_teacher, method_names, method_options, register
from dotkd.methods.simkd import SimKD

__all__ = [
    "CRD",
    "DKD",
    "KD",
    "OFD",
    "VID",
    "DeepKD",
    "FitNet",
    "FunctionMethod",
    "LabelSmoothing",
    "Method",
    "Outputs",
    "ReviewKD",
    "Setting",
    "SimKD",
    "TaskMethod",
    "TeacherFreeKD",
    "create_method",
    "has_teacher",
    "method_names",
    "method_options",
    "register",
]
