"""Measurements on a student, its losses and its gradients: functions of callables and tensors.

Names load on first use, because the trade-off, which reports read, needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dotkd.analysis.conflict import Conflict, Conflicts, Directions, conflict_of, gradient_conflict
    from dotkd.analysis.cost import Latency, flops, latency, parameter_count
    from dotkd.analysis.curvature import (
        SpectralDensity,
        TraceEstimate,
        hessian_trace,
        hessian_vector_product,
        sam_sharpness,
        spectral_density,
        top_eigenvalues,
    )
    from dotkd.analysis.landscape import (
        filter_normalized_direction,
        filter_norms,
        interpolation,
        loss_surface,
    )
    from dotkd.analysis.predictions import (
        CORRUPTIONS,
        Agreement,
        ClassAccuracies,
        ClassAccuracy,
        ReliabilityDiagram,
        agreement,
        brier_score,
        corrupt,
        expected_calibration_error,
        fgsm,
        negative_log_likelihood,
        per_class_accuracy,
        reliability_diagram,
        top_k_accuracy,
        worst_classes,
    )
    from dotkd.analysis.tradeoff import LowerCounts, dominates, front_position, lower_counts, pareto_front

__all__ = [
    "CORRUPTIONS",
    "Agreement",
    "ClassAccuracies",
    "ClassAccuracy",
    "Conflict",
    "Conflicts",
    "Directions",
    "Latency",
    "LowerCounts",
    "ReliabilityDiagram",
    "SpectralDensity",
    "TraceEstimate",
    "agreement",
    "brier_score",
    "conflict_of",
    "corrupt",
    "dominates",
    "expected_calibration_error",
    "fgsm",
    "filter_normalized_direction",
    "filter_norms",
    "flops",
    "front_position",
    "gradient_conflict",
    "hessian_trace",
    "hessian_vector_product",
    "interpolation",
    "latency",
    "loss_surface",
    "lower_counts",
    "negative_log_likelihood",
    "parameter_count",
    "pareto_front",
    "per_class_accuracy",
    "reliability_diagram",
    "sam_sharpness",
    "spectral_density",
    "top_eigenvalues",
    "top_k_accuracy",
    "worst_classes",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for part in ("tradeoff", "conflict", "cost", "curvature", "landscape", "predictions"):
            home = import_module(f"dotkd.analysis.{part}")
            if hasattr(home, name):
                return getattr(home, name)
    raise AttributeError(f"module 'dotkd.analysis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
