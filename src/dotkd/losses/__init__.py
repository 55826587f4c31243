"""Distillation losses: pure functions of the student's and the teacher's tensors.

Each returns an unweighted scalar; weights, ramps and learned parts belong to ``dotkd.methods``.
None of them detaches the teacher: who calls a loss decides whom it teaches.
"""

from dotkd.losses.logit import dkd_loss, kd_loss

__all__ = ["dkd_loss", "kd_loss"]
