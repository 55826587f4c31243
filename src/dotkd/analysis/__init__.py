"""Measurements on a student, its losses and its gradients; they take callables and tensors."""

from dotkd.analysis.conflict import Conflict, gradient_conflict

__all__ = ["Conflict", "gradient_conflict"]
