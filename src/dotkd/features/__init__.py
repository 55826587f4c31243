"""Intermediate features of any module: their paths, taps that read them, and layers that match shapes.

``paths`` finds the features that a method compares, ``taps`` reads them during a forward pass, ``shapes``
converts maps, tokens and vectors into each other and predicts a teacher's feature from a student's.
"""

from dotkd.features.paths import KINDS, LIST_KINDS, FeaturePath, feature_paths, pair_paths
from dotkd.features.shapes import Aligner, ConvRegressor, as_map, as_vector, make_aligner
from dotkd.features.taps import INPUT, Taps

__all__ = [
    "INPUT",
    "KINDS",
    "LIST_KINDS",
    "Aligner",
    "ConvRegressor",
    "FeaturePath",
    "Taps",
    "as_map",
    "as_vector",
    "feature_paths",
    "make_aligner",
    "pair_paths",
]
