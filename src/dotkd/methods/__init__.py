"""Distillation methods by name, and what one needs to add another.

A new method is one function or one small class under ``@register("name")``.
"""

from dotkd.methods.base import FunctionMethod, Method, Outputs
from dotkd.methods.logit import DKD, KD
from dotkd.methods.registry import create_method, method_names, method_options, register

__all__ = [
    "DKD",
    "KD",
    "FunctionMethod",
    "Method",
    "Outputs",
    "create_method",
    "method_names",
    "method_options",
    "register",
]
