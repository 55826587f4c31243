"""Optimizers that keep the gradients of several losses apart. Needs torch, and nothing else.

``DOT`` is the paper's optimizer, ``DOTAdamW`` its idea in AdamW, ``MultiMomentumSGD`` its rule for any
number of losses, ``matched_gains`` the control that every comparison needs, ``ReferenceDOT`` the paper's
update in plain steps. The folder can be copied out of the package and works alone.
"""

from .adamw import DOTAdamW
from .deepkd import deepkd_momenta
from .dot import DOT, matched_gains
from .momentum import MultiMomentumSGD
from .reference import ReferenceDOT
from .streams import StreamOptimizer

__all__ = [
    "DOT",
    "DOTAdamW",
    "MultiMomentumSGD",
    "ReferenceDOT",
    "StreamOptimizer",
    "deepkd_momenta",
    "matched_gains",
]
