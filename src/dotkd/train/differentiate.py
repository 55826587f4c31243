"""Losses to gradients: the one place that asks which optimizer a run has.

An optimizer of :mod:`dotkd.optim` names its ``streams`` and keeps their gradients apart; any other one gets
the gradient of the sum.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from dotkd.distiller import Losses

SUM = "sum"


def separate(optimizer: Any, losses: Losses, gains: tuple[float, float] | None = None) -> dict[str, Tensor]:
    """The losses that an optimizer differentiates one by one.

    Args:
        optimizer: Any optimizer.
        losses: The losses of a batch.
        gains: Factors on task and distillation loss in their sum; None: 1.

    Returns:
        The streams of the losses where the optimizer has the same; task and distillation loss where it has
        two; else their sum alone, as ``"sum"``.
    """
    streams = getattr(optimizer, "streams", ())
    if streams == tuple(losses.streams):
        return losses.streams
    task = losses.streams["task"]
    if len(losses.streams) == 1:
        return {SUM: task}
    distill = losses.distill
    assert distill is not None
    if streams:
        return dict(zip(streams, (task, distill), strict=True))
    return {SUM: task + distill if gains is None else gains[0] * task + gains[1] * distill}


def differentiate(optimizer: Any, losses: Losses, gains: tuple[float, float] | None = None) -> None:
    """Compute the gradients of a batch, apart where the optimizer keeps them apart.

    Args:
        optimizer: Any optimizer; if it has streams, they fit those of the losses.
        losses: The losses of the batch.
        gains: As for :func:`separate`.
    """
    roots = separate(optimizer, losses, gains)
    if SUM in roots:
        roots[SUM].backward()  # type: ignore[no-untyped-call]
    else:
        optimizer.backward(**{name: loss if loss.requires_grad else None for name, loss in roots.items()})


def gradients(loss: Tensor, params: Sequence[Tensor], *, retain_graph: bool = False) -> list[Tensor | None]:
    """Differentiate a loss and leave ``.grad`` as it was.

    Args:
        loss: A scalar with a graph.
        params: All leaves that it may reach.
        retain_graph: Whether the graph is wanted again.

    Returns:
        The gradient of each parameter; None where the loss does not reach it.
    """
    before = [param.grad for param in params]
    for param in params:
        param.grad = None
    try:
        # Not by torch.autograd.grad, which reentrant activation checkpointing refuses.
        torch.autograd.backward(loss, retain_graph=retain_graph)
        return [param.grad for param in params]
    finally:
        for param, grad in zip(params, before, strict=True):
            param.grad = grad


def clip(optimizer: Any, params: Iterable[Tensor], max_norm: float | None) -> None:
    """Clip by the norm of the summed gradient, one factor for all streams."""
    if max_norm is None:
        return
    if hasattr(optimizer, "streams"):
        optimizer.clip_grad_norm_(max_norm)
    else:
        clip_grad_norm_(params, max_norm)


def momenta(optimizer: Any) -> dict[str, float]:
    """The momentum of each gradient, by stream; that of one of torch's optimizers under ``"sum"``."""
    if hasattr(optimizer, "streams"):
        found: dict[str, float] = optimizer.momenta()
        return found
    group: dict[str, Any] = optimizer.param_groups[0]
    return {SUM: group["betas"][0] if "betas" in group else group["momentum"]}
