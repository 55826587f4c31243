"""What is measured of a student after each epoch: held-out losses, and how the two gradients lie.

Nothing in a session moves here.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dotkd.analysis.conflict import Conflicts, conflict_of
from dotkd.train.differentiate import SUM, momenta
from dotkd.train.epoch import stop_diverged
from dotkd.train.evaluate import autocast, evaluate, in_evaluation_mode
from dotkd.train.session import Session, probe_positions

Layers = dict[str, dict[str, float | None]]


class Judgement(NamedTuple):
    """What :func:`judge_epoch` found.

    Attributes:
        numbers: By the name of their column.
        layers: Name of each weight of two or more dimensions, in the order of the network -> ``cosine``,
            ``norm_ratio`` and ``sign_disagreement`` of its two gradients; None without two gradients.
    """

    numbers: dict[str, Any]
    layers: Layers | None


def judge_epoch(session: Session) -> Judgement:
    """Measure the student after an epoch.

    The two gradients are those of one fixed batch, drawn by the data's seed, in evaluation mode and float32:
    the same question for all arms, with or without DOT. They are compared with each other, with their sum,
    and with what the optimizer did in the last step of the epoch, at whose end they are taken.

    Args:
        session: The run, whose ``epoch`` still counts the epochs before this one; nothing in it moves.

    Returns:
        ``validation_accuracy``, ``validation_loss``, ``validation_distill_loss``, the momentum of each
        gradient, ``gradient_cosine``, ``gradient_norm_ratio`` = |task| / |distillation|,
        ``gradient_sign_disagreement``, the cosines of each gradient with their sum and with the negative
        update; None for what there is not. And the gradients by layer.

    Raises:
        Diverged: The loss on held-out images is not finite.
    """
    recipe, validation = session.recipe, session.data.validation
    judged = validation or session.data.train.subset(_positions(session))
    quality = evaluate(session.deployable, judged, precision=recipe.run.precision)
    if not math.isfinite(quality.loss):  # weights so large that no logit is a number
        stop_diverged(session, f"epoch {session.epoch + 1}: loss {quality.loss:.4g} in evaluation")
    task_momentum, distill_momentum = _momenta(session.optimizer)
    found = _conflicts(session)
    numbers = {
        "validation_accuracy": quality.accuracy if validation else None,
        "validation_loss": quality.loss if validation else None,
        "validation_distill_loss": _held_out(session) if validation else None,
        "task_momentum": task_momentum,
        "distill_momentum": distill_momentum if session.objective.teacher is not None else None,
        **_overall(found),
    }
    return Judgement(numbers, None if found is None else _by_layer(session, found))


def _overall(found: Conflicts | None) -> dict[str, float | None]:
    columns = {
        "gradient_cosine": "cosine",
        "gradient_norm_ratio": "norm_ratio",
        "gradient_sign_disagreement": "sign_disagreement",
        "task_total_cosine": "task_with_total",
        "distill_total_cosine": "distill_with_total",
        "task_update_cosine": "task_with_update",
        "distill_update_cosine": "distill_with_update",
    }
    if found is None:
        return dict.fromkeys(columns)
    return {column: _finite(getattr(found.overall, field)) for column, field in columns.items()}


def _by_layer(session: Session, found: Conflicts) -> Layers:
    weights = [name for name, param in _named(session) if param.ndim > 1]
    fields = ("cosine", "norm_ratio", "sign_disagreement")
    return {
        name: {field: _finite(getattr(found.by_parameter[name], field)) for field in fields}
        for name in weights
    }


def _conflicts(session: Session) -> Conflicts | None:
    """Compare the gradients on the probe batch; None where one of the two losses has none."""
    weights = session.objective.weights()
    if session.objective.teacher is None or not all(weights.values()):
        return None
    batch = session.data.train.batch(_positions(session))
    progress = (session.epoch + 1) / session.recipe.schedule.epochs
    with in_evaluation_mode(session.objective), torch.enable_grad():
        losses = session.objective(batch.images, batch.labels, index=batch.index, progress=progress)
        assert losses.distill is not None
        task = _gradients(losses.task, session.params, keep=True)
        distill = _gradients(losses.distill, session.params, keep=False)
    names = [name for name, _ in _named(session)]
    return conflict_of(task, distill, updates=session.last_update, names=names)


def _gradients(loss: Tensor, params: list[torch.nn.Parameter], *, keep: bool) -> list[Tensor]:
    # A parameter that a loss does not reach counts as zero, so that all arms are asked about the same ones.
    return list(torch.autograd.grad(loss, params, retain_graph=keep, materialize_grads=True))


def _named(session: Session) -> list[tuple[str, torch.nn.Parameter]]:
    named = [(name, param) for name, param in session.objective.named_parameters() if param.requires_grad]
    return [(name.removeprefix("student."), param) for name, param in named]


@torch.no_grad()
def _held_out(session: Session) -> float | None:
    """Return the raw distillation loss on the validation images, in evaluation mode; None without meaning."""
    assert session.data.validation is not None
    if session.objective.teacher is None or "index" in session.objective.needs:
        return None  # what remembers training images knows nothing of others
    total = torch.zeros((), dtype=torch.float64, device=session.device)
    with in_evaluation_mode(session.objective):
        for batch in session.data.validation.batches(session.recipe.data.batch_size):
            with autocast(session.device, session.recipe.run.precision):
                losses = session.objective(batch.images, batch.labels, index=batch.index, progress=1.0)
            assert losses.raw_distill is not None
            total += losses.raw_distill.double() * len(batch)
    return _finite(float(total) / len(session.data.validation))


def _momenta(optimizer: torch.optim.Optimizer) -> tuple[float, float | tuple[float, ...]]:
    """The momentum of the task gradient and that of the distillation gradient, or of each of them."""
    found = momenta(optimizer)
    if SUM in found:
        return found[SUM], found[SUM]
    task, *others = found.values()
    return task, others[0] if len(others) == 1 else tuple(others)


def _positions(session: Session) -> Tensor:
    return probe_positions(session.data.train, session.recipe.data.seed)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
