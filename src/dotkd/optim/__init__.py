"""Optimizers that keep the gradients of several losses apart; they need torch, and nothing else.

``DOT`` is the paper's optimizer, ``DOTAdamW`` its idea in AdamW, ``MultiMomentumSGD`` its rule for any
number of losses with ``deepkd_momenta`` for DeepKD's three, ``matched_gains`` the control that every
comparison needs, ``ReferenceDOT`` the paper's update in plain steps. The folder can be copied out of the
package and works alone.
"""

from .adamw import DOTAdamW
from .base import StreamOptimizer
from .reference import ReferenceDOT
from .sgd import DOT, MultiMomentumSGD, deepkd_momenta, matched_gains

__all__ = [
    "DOT",
    "DOTAdamW",
    "MultiMomentumSGD",
    "ReferenceDOT",
    "StreamOptimizer",
    "deepkd_momenta",
    "matched_gains",
]
