"""Distillation losses: functions of the student's and the teacher's tensors that return an unweighted scalar.

``logit`` compares logits, ``feature`` feature maps, ``relation`` relations among the samples of a batch;
``learned`` and ``contrast`` hold the losses with learned parts, which are plain modules that know shapes
and channels only. Weights and ramps belong to ``dotkd.methods``. No loss detaches the teacher: the caller
decides who learns.
"""

from dotkd.losses.contrast import ContrastMemory, crd_loss
from dotkd.losses.feature import (
    attention_transfer_loss,
    hierarchical_context_loss,
    hint_loss,
    kdsvd_loss,
    nst_loss,
)
from dotkd.losses.learned import (
    OverhaulConnectors,
    ReviewFusion,
    VariationalRegressor,
    margin_from_batch_norm,
    margin_from_features,
    ofd_loss,
    vid_loss,
)
from dotkd.losses.logit import (
    deepkd_losses,
    dist_loss,
    dkd_loss,
    kd_loss,
    label_smoothing_loss,
    multi_level_loss,
    nkd_loss,
    teacher_free_kd_loss,
    top_k_schedule,
)
from dotkd.losses.relation import pkt_loss, rkd_loss, similarity_loss

__all__ = [
    "ContrastMemory",
    "OverhaulConnectors",
    "ReviewFusion",
    "VariationalRegressor",
    "attention_transfer_loss",
    "crd_loss",
    "deepkd_losses",
    "dist_loss",
    "dkd_loss",
    "hierarchical_context_loss",
    "hint_loss",
    "kd_loss",
    "kdsvd_loss",
    "label_smoothing_loss",
    "margin_from_batch_norm",
    "margin_from_features",
    "multi_level_loss",
    "nkd_loss",
    "nst_loss",
    "ofd_loss",
    "pkt_loss",
    "rkd_loss",
    "similarity_loss",
    "teacher_free_kd_loss",
    "top_k_schedule",
    "vid_loss",
]
