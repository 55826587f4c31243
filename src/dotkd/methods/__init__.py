"""Distillation methods by name, and what one needs to add another.

A new method is one function or one small class under ``@register("name")``. Each file below holds methods of
one kind, or one method with learned parts; importing it puts them on the list.
"""

from dotkd.methods import feature, relation  # registered by name only
from dotkd.methods.base import FunctionMethod, Method, Outputs, Setting, TaskMethod
from dotkd.methods.crd import CRD
from dotkd.methods.deepkd import DeepKD
from dotkd.methods.fitnet import FitNet
from dotkd.methods.logit import DKD, KD
from dotkd.methods.ofd import OFD
from dotkd.methods.registry import create_method, has_teacher, method_names, method_options, register
from dotkd.methods.reviewkd import ReviewKD
from dotkd.methods.simkd import SimKD
from dotkd.methods.task import LabelSmoothing, TeacherFreeKD
from dotkd.methods.vid import VID

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
    "feature",
    "has_teacher",
    "method_names",
    "method_options",
    "register",
    "relation",
]
