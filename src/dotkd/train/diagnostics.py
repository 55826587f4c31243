"""Diagnostics after each epoch: held-out scores, momenta, and a comparison of the two losses' gradients.

Diagnostics leave the run as it is.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dotkd.analysis.conflict import Conflicts, conflict_of
from dotkd.errors import first_line
from dotkd.records import LayerGradients
from dotkd.train.build import probe_positions
from dotkd.train.differentiate import SUM, gradients, momenta
from dotkd.train.scores import autocast, in_evaluation_mode, score
from dotkd.train.state import RunState
from dotkd.train.step import stop_diverged

_COLUMNS = {
    "gradient_cosine": "cosine",
    "gradient_norm_ratio": "norm_ratio",
    "gradient_sign_disagreement": "sign_disagreement",
    "task_total_cosine": "task_with_total",
    "distill_total_cosine": "distill_with_total",
    "task_update_cosine": "task_with_update",
    "distill_update_cosine": "distill_with_update",
}
"""Fields of :class:`dotkd.records.EpochMetrics` -> fields of a conflict."""


class Diagnostics(NamedTuple):
    """Result of :func:`diagnose`.

    Attributes:
        metrics: Fields of :class:`dotkd.records.EpochMetrics`.
        layers: For each weight of two or more dimensions, in the order of the network, its two gradients
            compared; None without two gradients.
    """

    metrics: dict[str, Any]
    layers: dict[str, LayerGradients] | None


def diagnose(run: RunState) -> Diagnostics:
    """Measure the student after an epoch.

    The two gradients are those of one fixed batch, drawn by the data's seed, in evaluation mode and float32:
    the same for all arms, with or without DOT. They are compared with each other, with their sum, and with
    the optimizer's last update of the epoch.

    Args:
        run: The run; its ``epoch`` still counts the epochs before this one.

    Returns:
        Held-out scores, momenta and gradients; None for values that do not exist.

    Raises:
        Diverged: The loss on held-out images is not finite.
    """
    recipe, validation = run.recipe, run.data.validation
    measured = validation or run.data.train.subset(_probe(run))
    scores = score(run.deployable, measured, precision=recipe.run.precision)
    if not math.isfinite(scores.loss):  # weights so large that no logit is a number
        stop_diverged(run, f"epoch {run.epoch + 1}: loss {scores.loss:.4g} in evaluation")
    compared = _conflicts(run)
    found = None if isinstance(compared, str) else compared
    overall = {
        column: None if found is None else _finite(getattr(found.overall, name))
        for column, name in _COLUMNS.items()
    }
    task_momentum, distill_momentum = _momenta(run)
    metrics = {
        "validation_accuracy": scores.accuracy if validation else None,
        "validation_loss": scores.loss if validation else None,
        "validation_distill_loss": _held_out(run) if validation else None,
        "task_momentum": task_momentum,
        "distill_momentum": distill_momentum,
        **overall,
        "gradient_reason": compared if isinstance(compared, str) else None,
    }
    return Diagnostics(metrics, None if found is None else _by_layer(run, found))


def _by_layer(run: RunState, found: Conflicts) -> dict[str, LayerGradients]:
    weights = [name for name, param in _named(run) if param.ndim > 1]
    return {
        name: LayerGradients(
            **{key: getattr(found.by_parameter[name], key) for key in LayerGradients.model_fields}
        )
        for name in weights
    }


def _conflicts(run: RunState) -> Conflicts | str | None:
    """Compare the gradients on the probe batch; None where a loss has none, the reason where torch fails."""
    if run.distiller.teacher is None or not all(run.distiller.weights().values()):
        return None
    batch = run.data.train.batch(_probe(run))
    progress = (run.epoch + 1) / run.recipe.schedule.epochs
    try:
        with in_evaluation_mode(run.distiller), torch.enable_grad():
            losses = run.distiller(batch.images, batch.labels, index=batch.index, progress=progress)
            assert losses.distill is not None
            task = _gradients(losses.task, run.params, keep=True)
            distill = _gradients(losses.distill, run.params, keep=False)
    except RuntimeError as error:  # of torch: a graph that goes backward once only, too little memory
        return first_line(error)
    return conflict_of(task, distill, updates=run.last_update, names=[name for name, _ in _named(run)])


def _gradients(loss: Tensor, params: list[torch.nn.Parameter], *, keep: bool) -> list[Tensor]:
    # Zeros where a loss does not reach a parameter: all arms are compared on the same parameters.
    found = gradients(loss, params, retain_graph=keep)
    return [
        torch.zeros_like(param) if grad is None else grad for param, grad in zip(params, found, strict=True)
    ]


def _named(run: RunState) -> list[tuple[str, torch.nn.Parameter]]:
    named = [(name, param) for name, param in run.distiller.named_parameters() if param.requires_grad]
    return [(name.removeprefix("student."), param) for name, param in named]


@torch.no_grad()
def _held_out(run: RunState) -> float | None:
    """Raw distillation loss on the validation images; None where the method has none there."""
    assert run.data.validation is not None
    if run.distiller.teacher is None or "index" in run.distiller.needs:  # a memory of training images
        return None
    total = torch.zeros((), dtype=torch.float64, device=run.device)
    with in_evaluation_mode(run.distiller):
        for batch in run.data.validation.batches(run.recipe.data.batch_size):
            with autocast(run.device, run.recipe.run.precision):
                losses = run.distiller(batch.images, batch.labels, index=batch.index, progress=1.0)
            assert losses.raw_distill is not None
            total += losses.raw_distill.double() * len(batch)
    return _finite(float(total) / len(run.data.validation))


def _momenta(run: RunState) -> tuple[float, float | tuple[float, ...] | None]:
    """The momentum of the task gradient, and that of each distillation gradient."""
    found = momenta(run.optimizer)
    task, *others = [found[SUM]] * 2 if SUM in found else found.values()
    if run.distiller.teacher is None:
        return task, None
    return task, others[0] if len(others) == 1 else tuple(others)


def _probe(run: RunState) -> Tensor:
    return probe_positions(run.data.train, run.recipe.data.seed)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
