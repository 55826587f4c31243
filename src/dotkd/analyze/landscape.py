"""The part ``landscape``: both losses on a plane around the student."""

from typing import Any

import torch

from dotkd.analysis import filter_normalized_direction, loss_surface
from dotkd.analyze.subject import mean_losses, plain, student_params
from dotkd.data import Images
from dotkd.data.randomness import random_stream
from dotkd.train.session import Session

_REACH = 1.0


def landscape(session: Session, data: Images, grid: int) -> dict[str, Any]:
    """The surfaces around the student, on the plane of two directions drawn alike for all runs."""
    params = student_params(session)
    generators = [random_stream(0, f"analysis.direction{number}") for number in range(2)]
    directions = [filter_normalized_direction(params, generator=generator) for generator in generators]
    steps = torch.linspace(-_REACH, _REACH, grid, dtype=torch.float64)
    steps[grid // 2] = 0.0
    with torch.no_grad():
        surfaces = loss_surface(lambda: mean_losses(session, data), params, directions, steps.tolist())
    found = {name: [plain(row) for row in surface] for name, surface in surfaces.items()}
    return {"steps": steps.tolist(), **found}
