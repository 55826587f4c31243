"""The training step and the epoch of steps; metrics stay on the device until the epoch is over."""

import math
from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

from dotkd._validate import UNLABELLED
from dotkd.data import Batch, StreamedImages
from dotkd.distiller import Losses
from dotkd.errors import Diverged
from dotkd.recipe.tables import ConstantSchedule, CosineSchedule, StepSchedule
from dotkd.train.compiled import Compiled, Example
from dotkd.train.differentiate import clip, differentiate
from dotkd.train.scores import autocast
from dotkd.train.state import RunState

OnStep = Callable[[int, int], None]
"""Called after each step with the steps done and the steps of the run."""

_IMAGES, _LABELLED = "images", "labelled"  # numbers of them in a batch
_BY_LABEL = frozenset({"train_task_loss", "train_weighted_task_loss", "train_accuracy"})
_DISTILL = frozenset({"train_distill_loss", "train_weighted_distill_loss"})


def train_epoch(run: RunState, on_step: OnStep | None = None) -> dict[str, float | None]:
    """Train on all training images once.

    Args:
        run: The run; its student, optimizer and random streams move on.
        on_step: Called after each step.

    Returns:
        Fields of :class:`dotkd.records.EpochMetrics`: means over the images of the epoch (what reads labels:
        over those with a label), the learning rate of the last step, and ``teacher_cache_hit_rate``.

    Raises:
        Diverged: A loss was not finite.

    Example:
        >>> from dotkd.recipe import load_recipe
        >>> from dotkd.train import build_run
        >>> run = build_run(load_recipe("quick/digits-plain"))
        >>> metrics = train_epoch(run)
        >>> 0 < metrics["train_accuracy"] < 1
        True
    """
    recipe, data = run.recipe, run.data.train
    steps = math.ceil(len(data) / recipe.data.batch_size)
    views = run.augmentation.views(run.views, streamed=isinstance(data, StreamedImages))
    run.distiller.train()
    rows: list[dict[str, Tensor]] = []
    cache = run.teacher_cache
    batches = data.batches(recipe.data.batch_size, generator=run.order, augment=views)
    for step, batch in enumerate(batches if cache is None else cache.follow(batches)):
        time = run.epoch + (step + 0.5) / steps
        for group in run.optimizer.param_groups:
            group["lr"] = recipe.optimizer.lr * lr_factor(recipe.schedule, time)
        if step == steps - 1:
            before = [param.detach().clone() for param in run.params]
        rows.append(_step(run, batch, time / recipe.schedule.epochs))
        if on_step is not None:
            on_step(run.epoch * steps + step + 1, recipe.schedule.epochs * steps)
    run.last_update = [param.detach() - old for param, old in zip(run.params, before, strict=True)]
    names = list(rows[0])
    # The only place that waits for the device.
    table = torch.stack([torch.stack([row[name] for row in rows]) for name in names]).double().cpu()
    columns = dict(zip(names, table, strict=True))
    _refuse_nonfinite(run, columns, run.epoch * steps)
    images, labelled = columns.pop(_IMAGES), columns.pop(_LABELLED)
    by_label = _BY_LABEL | (_DISTILL if "target" in run.distiller.needs else frozenset())

    def mean(name: str) -> float | None:
        counts = labelled if name in by_label else images
        if not counts.any():
            return None if name == "train_accuracy" else 0.0
        return float((columns[name] * counts).sum() / counts.sum())

    return {
        "lr": run.optimizer.param_groups[0]["lr"],
        **{name: mean(name) for name in columns},
        "teacher_cache_hit_rate": None if cache is None else cache.hit_rate(),
    }


def lr_factor(schedule: ConstantSchedule | StepSchedule | CosineSchedule, time: float) -> float:
    """The factor of the learning rate at a time of the run.

    During ``warmup`` epochs it is ``time / warmup``. After that it is 1 (constant), ``gamma`` to the number
    of milestones passed (step), or ``(1 + cos(pi s)) / 2`` with ``s`` the share of the epochs after warm-up
    that is over (cosine).

    Args:
        schedule: ``[schedule]``.
        time: Epochs done, with the fraction of the current one; at the middle of a step rather than at its
            start, so that warm-up does not begin with a step of rate zero.

    Returns:
        A factor in [0, 1].

    Example:
        >>> step = StepSchedule(name="step", epochs=240, milestones=(150, 180, 210))
        >>> [round(lr_factor(step, epoch), 4) for epoch in (149.9, 150.1, 180.1, 239.9)]
        [1.0, 0.1, 0.01, 0.001]
    """
    if time < schedule.warmup:
        return time / schedule.warmup
    if isinstance(schedule, StepSchedule):
        return schedule.gamma ** sum(time >= milestone for milestone in schedule.milestones)
    if isinstance(schedule, CosineSchedule):
        return (1 + math.cos(math.pi * (time - schedule.warmup) / (schedule.epochs - schedule.warmup))) / 2
    return 1.0


def compile_step(run: RunState) -> float | None:
    """Compile the step where ``run.compile`` says so, for batches of the shape of the first one.

    Args:
        run: The run; its weights, statistics and random streams stay.

    Returns:
        Seconds spent; None where nothing is compiled.

    Raises:
        BadInput: It cannot be compiled.
    """
    recipe, data = run.recipe, run.data.train
    if recipe.run.compile == "none":
        return None
    discarded = torch.Generator()
    views = run.augmentation.views(discarded, streamed=isinstance(data, StreamedImages))
    batch = next(iter(data.batches(recipe.data.batch_size, augment=views)))
    mixed = run.augmentation.mix(batch.images, batch.labels, len(data.classes), generator=discarded)
    run.distiller.train()
    run.compiled = Compiled(
        run.distiller,
        run.optimizer,
        Example(*mixed, batch.index),
        precision=recipe.run.precision,
        whole=recipe.run.compile == "step",
        ask_teacher=run.teacher_cache is None,
        gains=run.gains,
    )
    return run.compiled.seconds


def stop_diverged(run: RunState, found: str) -> NoReturn:
    """End a run whose numbers are no longer finite.

    Args:
        run: The run.
        found: Which number, and when.

    Raises:
        Diverged: Always.
    """
    stays = f" The checkpoint of epoch {run.epoch} stays." if run.epoch else ""
    raise Diverged(
        f"{found}: the run has diverged.{stays} Try a lower optimizer.lr, a schedule.warmup, or "
        "optimizer.clip_grad_norm"
    )


def _step(run: RunState, batch: Batch, progress: float) -> dict[str, Tensor]:
    """Update the student once; return the batch's metrics by name, 0-d tensors on the device."""
    images, labels = run.augmentation.mix(
        batch.images, batch.labels, len(run.data.train.classes), generator=run.views
    )
    losses = _losses(run, Example(images, labels, batch.index), progress)
    differentiate(run.optimizer, losses, run.gains)
    clip(run.optimizer, run.params, run.recipe.optimizer.clip_grad_norm)
    run.optimizer.step()
    run.optimizer.zero_grad()
    return _metrics(losses, labels)


def _losses(run: RunState, batch: Example, progress: float) -> Losses:
    """The losses of a batch, by the teacher cache and the compiled step if the run has them."""
    cache, compiled, known = run.teacher_cache, run.compiled, None
    with autocast(run.device, run.recipe.run.precision):
        if cache is not None:
            known = cache.outputs(batch.images, run.distiller.teach)
        if compiled is None or not compiled.fits(*batch):
            losses: Losses = run.distiller(
                batch.images, batch.labels, index=batch.numbers, progress=progress, teacher_outputs=known
            )
            return losses
    return compiled.losses(batch, progress, known)  # the graphs include the autocast


@torch.no_grad()
def _metrics(losses: Losses, labels: Tensor) -> dict[str, Tensor]:
    likeliest = labels if labels.ndim == 1 else labels.argmax(dim=1)
    labelled = (likeliest != UNLABELLED).sum()
    task = losses.raw["task"]
    found = {"train_task_loss": task, "train_weighted_task_loss": losses.streams["task"].detach()}
    if len(losses.streams) > 1:
        distill, raw_distill = losses.distill, losses.raw_distill
        assert distill is not None
        assert raw_distill is not None
        found |= {"train_distill_loss": raw_distill, "train_weighted_distill_loss": distill.detach()}
    found["train_accuracy"] = (losses.logits.argmax(dim=1) == likeliest).sum() / labelled.clamp(min=1)
    found[_IMAGES] = torch.full_like(task, len(labels))
    found[_LABELLED] = labelled.to(task.dtype)
    # Copied: a CUDA graph writes over its outputs in the next step.
    return dict(zip(found, torch.stack(list(found.values())).unbind(), strict=True))


def _refuse_nonfinite(run: RunState, columns: dict[str, Tensor], steps_before: int) -> None:
    finite = torch.stack(list(columns.values())).isfinite().all(dim=0)
    bad = (~finite).nonzero().flatten().tolist()
    if bad:
        losses = f"task loss {float(columns['train_task_loss'][bad[0]]):.4g}"
        if "train_distill_loss" in columns:
            losses += f", distillation loss {float(columns['train_distill_loss'][bad[0]]):.4g}"
        stop_diverged(run, f"step {steps_before + bad[0] + 1}: {losses}")
    # No loss has seen the weights after the last step.
    weights: list[Tensor] = [param.detach() for param in run.params]
    largest = torch.stack(torch._foreach_norm(weights, torch.inf))
    if not bool(largest.isfinite().all()):
        stop_diverged(run, f"step {steps_before + len(finite)}: the weights are no longer finite")
