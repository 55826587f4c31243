"""Measurements on a student, its losses and its gradients; they take callables and tensors.

The names below are loaded on first use: the trade-off is plain numbers and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dotkd.analysis.calibration import ReliabilityDiagram, expected_calibration_error, reliability_diagram
    from dotkd.analysis.conflict import Conflict, Conflicts, Directions, conflict_of, gradient_conflict
    from dotkd.analysis.cost import Latency, energy, flops, latency, parameter_count
    from dotkd.analysis.fidelity import Agreement, agreement
    from dotkd.analysis.hessian import hessian_vector_product, top_eigenvalues
    from dotkd.analysis.landscape import filter_normalized_direction, interpolation, loss_surface
    from dotkd.analysis.quality import (
        ClassAccuracies,
        ClassAccuracy,
        brier_score,
        negative_log_likelihood,
        per_class_accuracy,
        top_k_accuracy,
        worst_classes,
    )
    from dotkd.analysis.robustness import CORRUPTIONS, corrupt, fgsm
    from dotkd.analysis.sharpness import sam_sharpness
    from dotkd.analysis.spectrum import SpectralDensity, TraceEstimate, hessian_trace, spectral_density
    from dotkd.analysis.tradeoff import LowerCounts, dominates, front_position, lower_counts, pareto_front

_HOME = {
    **dict.fromkeys(
        ["ReliabilityDiagram", "expected_calibration_error", "reliability_diagram"], "calibration"
    ),
    **dict.fromkeys(["Conflict", "Conflicts", "Directions", "conflict_of", "gradient_conflict"], "conflict"),
    **dict.fromkeys(["Latency", "energy", "flops", "latency", "parameter_count"], "cost"),
    **dict.fromkeys(["Agreement", "agreement"], "fidelity"),
    **dict.fromkeys(["hessian_vector_product", "top_eigenvalues"], "hessian"),
    **dict.fromkeys(["filter_normalized_direction", "interpolation", "loss_surface"], "landscape"),
    **dict.fromkeys(
        [
            "ClassAccuracies",
            "ClassAccuracy",
            "brier_score",
            "negative_log_likelihood",
            "per_class_accuracy",
            "top_k_accuracy",
            "worst_classes",
        ],
        "quality",
    ),
    **dict.fromkeys(["CORRUPTIONS", "corrupt", "fgsm"], "robustness"),
    **dict.fromkeys(["sam_sharpness"], "sharpness"),
    **dict.fromkeys(["SpectralDensity", "TraceEstimate", "hessian_trace", "spectral_density"], "spectrum"),
    **dict.fromkeys(
        ["LowerCounts", "dominates", "front_position", "lower_counts", "pareto_front"], "tradeoff"
    ),
}

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
    "energy",
    "expected_calibration_error",
    "fgsm",
    "filter_normalized_direction",
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
    if name in _HOME:
        return getattr(import_module(f"dotkd.analysis.{_HOME[name]}"), name)
    raise AttributeError(f"module 'dotkd.analysis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
