"""One epoch: the steps, and the numbers that are read from the device when it is over."""

import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from dotkd.data import Batch, StreamedImages
from dotkd.distiller import Distiller
from dotkd.errors import Diverged
from dotkd.train.evaluate import autocast
from dotkd.train.objective import clip, differentiate
from dotkd.train.schedule import lr_factor
from dotkd.train.session import Session

OnStep = Callable[[int, int], None]


def train_epoch(session: Session, on_step: OnStep | None = None) -> dict[str, Any]:
    """Go once through the training images.

    Args:
        session: The run; its student, optimizer and streams move on.
        on_step: Called after each step with the steps done and the steps of the run.

    Returns:
        Means over the images of the epoch: ``train_task_loss`` and ``train_distill_loss`` as the method
        defines them, the same ``weighted`` as they were differentiated, ``train_accuracy`` (of mixed labels:
        the likeliest); and the learning rate of the last step.

    Raises:
        Diverged: A loss was not finite.
    """
    recipe, data = session.recipe, session.data.train
    steps = math.ceil(len(data) / recipe.data.batch_size)
    views = session.augmentation.views(session.views, streamed=isinstance(data, StreamedImages))
    session.objective.train()
    rows: list[Tensor] = []
    for step, batch in enumerate(
        data.batches(recipe.data.batch_size, generator=session.order, augment=views)
    ):
        time = session.epoch + (step + 0.5) / steps
        for group in session.optimizer.param_groups:
            group["lr"] = recipe.optimizer.lr * lr_factor(recipe.schedule, time)
        if step == steps - 1:
            before = [param.detach().clone() for param in session.params]
        rows.append(_step(session, batch, time / recipe.schedule.epochs))
        if on_step is not None:
            on_step(session.epoch * steps + step + 1, recipe.schedule.epochs * steps)
    session.last_update = [param.detach() - old for param, old in zip(session.params, before, strict=True)]
    # The one place where the device is waited for.
    table = torch.stack(rows).double().cpu()
    _refuse_nonfinite(session, table, session.epoch * steps)
    means = ((table[:, :5] * table[:, 5:]).sum(dim=0) / table[:, 5].sum()).tolist()
    distills = isinstance(session.objective, Distiller)
    return {
        "lr": session.optimizer.param_groups[0]["lr"],
        "train_task_loss": means[0],
        "train_distill_loss": means[1] if distills else None,
        "train_weighted_task_loss": means[2],
        "train_weighted_distill_loss": means[3] if distills else None,
        "train_accuracy": means[4],
    }


def _step(session: Session, batch: Batch, progress: float) -> Tensor:
    """Update the student once; return the batch's numbers and its size, still on the device."""
    images, labels = session.augmentation.mix(
        batch.images, batch.labels, len(session.data.train.classes), generator=session.views
    )
    with autocast(session.device, session.recipe.run.precision):
        losses = session.objective(images, labels, index=batch.index, progress=progress)
    differentiate(session.optimizer, losses)
    clip(session.optimizer, session.params, session.recipe.optimizer.clip_grad_norm)
    session.optimizer.step()
    session.optimizer.zero_grad()
    none = losses.raw_task.new_zeros(())
    likeliest = labels if labels.ndim == 1 else labels.argmax(dim=1)
    correct = (losses.logits.detach().argmax(dim=1) == likeliest).float().mean()
    distill = none if losses.distill is None else losses.distill.detach()
    raw_distill = none if losses.raw_distill is None else losses.raw_distill
    size = none + len(batch)
    return torch.stack([losses.raw_task, raw_distill, losses.task.detach(), distill, correct, size])


def _refuse_nonfinite(session: Session, table: Tensor, steps_before: int) -> None:
    bad = (~table.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        task, distill = table[bad[0], :2].tolist()
        losses = f"task loss {task:.4g}"
        if isinstance(session.objective, Distiller):
            losses += f", distillation loss {distill:.4g}"
        stop_diverged(session, f"step {steps_before + bad[0] + 1}: {losses}")
    # The last step may have ruined what no loss has seen yet.
    weights: list[Tensor] = [param.detach() for param in session.params]
    largest = torch.stack(torch._foreach_norm(weights, torch.inf))
    if not bool(largest.isfinite().all()):
        stop_diverged(session, f"step {steps_before + len(table)}: the weights are no longer finite")


def stop_diverged(session: Session, what: str) -> NoReturn:
    """End a run that has left the finite numbers.

    Raises:
        Diverged: Always: what was seen, what stays, and what to try.
    """
    stays = f" The checkpoint of epoch {session.epoch} stays." if session.epoch else ""
    raise Diverged(
        f"{what}: the run has diverged.{stays} Try a lower optimizer.lr, a schedule.warmup, or "
        "optimizer.clip_grad_norm"
    )
