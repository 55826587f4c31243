"""One epoch: the steps, and the numbers that are read from the device when it is over."""

import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from dotkd.data import Batch, StreamedImages
from dotkd.distiller import Losses
from dotkd.errors import Diverged
from dotkd.train.compiled import Compiled, Example
from dotkd.train.differentiate import clip, differentiate
from dotkd.train.evaluate import autocast
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
        the likeliest); the learning rate of the last step; ``teacher_cache_hit_rate``, the share of images
        for which the teacher need not be asked, None without a cache.

    Raises:
        Diverged: A loss was not finite.
    """
    recipe, data = session.recipe, session.data.train
    steps = math.ceil(len(data) / recipe.data.batch_size)
    views = session.augmentation.views(session.views, streamed=isinstance(data, StreamedImages))
    session.objective.train()
    rows: list[Tensor] = []
    cache = session.teacher_cache
    batches = data.batches(recipe.data.batch_size, generator=session.order, augment=views)
    for step, batch in enumerate(batches if cache is None else cache.follow(batches)):
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
    distills = session.objective.teacher is not None
    return {
        "lr": session.optimizer.param_groups[0]["lr"],
        "train_task_loss": means[0],
        "train_distill_loss": means[1] if distills else None,
        "train_weighted_task_loss": means[2],
        "train_weighted_distill_loss": means[3] if distills else None,
        "train_accuracy": means[4],
        "teacher_cache_hit_rate": None if cache is None else cache.hit_rate(),
    }


def compile_step(session: Session) -> float | None:
    """Compile the step of a run where ``run.compile`` says so, for batches of the shape of its first one.

    Args:
        session: The run; nothing in it moves, no weight, no statistic and no stream.

    Returns:
        The seconds that it took; None where nothing is compiled.

    Raises:
        BadInput: It cannot be compiled.
    """
    recipe, data = session.recipe, session.data.train
    if recipe.run.compile == "none":
        return None
    drawn = torch.Generator()  # of which nothing is kept
    views = session.augmentation.views(drawn, streamed=isinstance(data, StreamedImages))
    batch = next(iter(data.batches(recipe.data.batch_size, augment=views)))
    mixed = session.augmentation.mix(batch.images, batch.labels, len(data.classes), generator=drawn)
    session.objective.train()
    session.compiled = Compiled(
        session.objective,
        session.optimizer,
        Example(*mixed, batch.index),
        precision=recipe.run.precision,
        whole=recipe.run.compile == "step",
        ask_teacher=session.teacher_cache is None,
    )
    return session.compiled.seconds


def _step(session: Session, batch: Batch, progress: float) -> Tensor:
    """Update the student once; return the batch's numbers and its size, still on the device."""
    images, labels = session.augmentation.mix(
        batch.images, batch.labels, len(session.data.train.classes), generator=session.views
    )
    losses = _losses(session, Example(images, labels, batch.index), progress)
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


def _losses(session: Session, batch: Example, progress: float) -> Losses:
    """Compute the losses, with what is remembered of the teacher and what is compiled."""
    cache, compiled, known = session.teacher_cache, session.compiled, None
    with autocast(session.device, session.recipe.run.precision):
        if cache is not None:
            known = cache.outputs(batch.images, session.objective.teach)
        if compiled is None or not compiled.fits(*batch):
            losses: Losses = session.objective(
                batch.images, batch.labels, index=batch.numbers, progress=progress, teacher_outputs=known
            )
            return losses
    return compiled.losses(batch, progress, known)  # the graphs have the autocast in them


def _refuse_nonfinite(session: Session, table: Tensor, steps_before: int) -> None:
    bad = (~table.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        task, distill = table[bad[0], :2].tolist()
        losses = f"task loss {task:.4g}"
        if session.objective.teacher is not None:
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
