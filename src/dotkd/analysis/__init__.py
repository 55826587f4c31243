"""Measurements on a student, its losses and its gradients; they take callables and tensors."""

from dotkd.analysis.calibration import expected_calibration_error, reliability_diagram
from dotkd.analysis.conflict import Conflict, conflict_of, gradient_conflict
from dotkd.analysis.cost import energy, flops, latency, parameter_count
from dotkd.analysis.fidelity import agreement
from dotkd.analysis.hessian import hessian_vector_product, top_eigenvalues
from dotkd.analysis.landscape import filter_normalized_direction, interpolation, loss_surface
from dotkd.analysis.quality import (
    brier_score,
    negative_log_likelihood,
    per_class_accuracy,
    top_k_accuracy,
    worst_classes,
)
from dotkd.analysis.robustness import CORRUPTIONS, corrupt, fgsm
from dotkd.analysis.sharpness import sam_sharpness
from dotkd.analysis.spectrum import SpectralDensity, TraceEstimate, hessian_trace, spectral_density

__all__ = [
    "CORRUPTIONS",
    "Conflict",
    "SpectralDensity",
    "TraceEstimate",
    "agreement",
    "brier_score",
    "conflict_of",
    "corrupt",
    "energy",
    "expected_calibration_error",
    "fgsm",
    "filter_normalized_direction",
    "flops",
    "gradient_conflict",
    "hessian_trace",
    "hessian_vector_product",
    "interpolation",
    "latency",
    "loss_surface",
    "negative_log_likelihood",
    "parameter_count",
    "per_class_accuracy",
    "reliability_diagram",
    "sam_sharpness",
    "spectral_density",
    "top_eigenvalues",
    "top_k_accuracy",
    "worst_classes",
]
