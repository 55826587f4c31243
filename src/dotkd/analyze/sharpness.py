"""The part ``sharpness``: the curvature of each loss at the student."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dotkd.analysis import hessian_trace, sam_sharpness, spectral_density, top_eigenvalues
from dotkd.analyze.subject import student_params, weight_of
from dotkd.data import Batch, Images
from dotkd.data.randomness import random_stream
from dotkd.distiller import Distiller
from dotkd.train.session import Session

CURVED = 256
"""On how many images curvature is measured at most."""
_RHO, _TRACE_SAMPLES = 0.05, 32
# Half the products that the rest of this part takes. Many parameters make one random vector nearly as good
# as several, while both ends of the spectrum want steps.
_DENSITY_SAMPLES, _DENSITY_STEPS, _DENSITY_POINTS = 1, 26, 201


def sharpness(session: Session, data: Images) -> dict[str, Any]:
    """Largest eigenvalues, trace, density and SAM's sharpness of each loss at the student, on one batch."""
    batch = data.batch(torch.arange(min(CURVED, len(data)), device=data.device))
    params = student_params(session)
    kinds = ("task", "distill") if isinstance(session.objective, Distiller) else ("task",)
    found = {}
    for kind in kinds:
        weight = weight_of(session, kind)
        if not weight:  # SimKD does not use its task loss
            continue
        loss = partial(_raw, session, batch, kind, weight)
        trace = hessian_trace(
            loss, params, num_samples=_TRACE_SAMPLES, generator=random_stream(0, f"analysis.trace.{kind}")
        )
        found[kind] = {
            "eigenvalues": top_eigenvalues(loss, params, k=3, tolerance=1e-3).tolist(),
            "trace": trace.trace,
            "trace_error": trace.standard_error,
            "epsilon_sharpness": sam_sharpness(loss, params, rho=_RHO),
            "rho": _RHO,
            "spectrum": _spectrum(loss, params, kind),
        }
    return found


def _spectrum(loss: Callable[[], Tensor], params: list[nn.Parameter], kind: str) -> dict[str, Any]:
    """The density of the eigenvalues, with the nodes and weights from which any other width can be drawn."""
    density = spectral_density(
        loss,
        params,
        num_samples=_DENSITY_SAMPLES,
        steps=_DENSITY_STEPS,
        points=_DENSITY_POINTS,
        generator=random_stream(0, f"analysis.spectrum.{kind}"),
    )
    return {name: values.tolist() for name, values in density._asdict().items()}


def _raw(session: Session, batch: Batch, kind: str, weight: float) -> Tensor:
    """One raw loss of a batch with its graph, which the raw values that are logged do not have."""
    losses = session.objective(batch.images, batch.labels, index=batch.index, progress=1.0)
    value: Tensor = getattr(losses, kind)
    return value / weight
