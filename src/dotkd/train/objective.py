"""What a step differentiates: the losses of a batch, and how they reach each kind of optimizer."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from dotkd.distiller import Losses, StreamLosses
from dotkd.methods import TaskMethod
from dotkd.optim import DOT, MultiMomentumSGD


class TaskLosses(NamedTuple):
    """The losses of one batch without a teacher, under the names of :class:`~dotkd.Losses`.

    Attributes:
        task: Cross entropy, or what takes its place, a scalar.
        distill: None.
        logits: [B, C].
        raw_task: The cross entropy, detached: the same measure for all methods.
        raw_distill: None.
    """

    task: Tensor
    distill: None
    logits: Tensor
    raw_task: Tensor
    raw_distill: None


class TaskOnly(nn.Module):
    """A network that learns from labels alone: a teacher in the making, or a plain student.

    Args:
        student: Maps images to logits.
        method: What takes the place of the cross entropy; None for the cross entropy itself.
    """

    def __init__(self, student: nn.Module, method: TaskMethod | None = None) -> None:
        super().__init__()
        self.student = student
        self.method = method

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        index: Tensor | None = None,  # noqa: ARG002 (a distiller's signature)
        progress: float = 0.0,  # noqa: ARG002
        teacher_outputs: None = None,  # noqa: ARG002
    ) -> TaskLosses:
        """Compute the loss of a batch; takes what a distiller takes."""
        return self.compare(self.student(images), labels)

    def compare(self, logits: Tensor, labels: Tensor) -> TaskLosses:
        """Compute the loss from logits: the second half of :meth:`forward`."""
        with torch.autocast(logits.device.type, enabled=False):
            raw = functional.cross_entropy(logits.float(), labels)
            task = raw if self.method is None else self.method(logits.float(), labels)
        return TaskLosses(task, None, logits, raw.detach(), None)

    def deployable(self) -> nn.Module:
        """Return the module to ship: the network."""
        return self.student


def differentiate(optimizer: torch.optim.Optimizer, losses: Losses | TaskLosses) -> None:
    """Bring the gradients of a batch to the optimizer: apart where it keeps them apart, else of the sum.

    Args:
        optimizer: DOT (the control is one), :class:`~dotkd.optim.MultiMomentumSGD` with the streams of the
            method, or any other.
        losses: The losses of the batch.
    """
    if isinstance(optimizer, DOT):
        task, distill = (loss if loss is not None and loss.requires_grad else None for loss in losses[:2])
        optimizer.backward(task=task, distill=distill)
        return
    if isinstance(optimizer, MultiMomentumSGD):
        streams = losses.streams if isinstance(losses, StreamLosses) else {"distill": losses.distill}
        optimizer.backward(task=losses.task, **streams)
        return
    total = losses.task if losses.distill is None else losses.task + losses.distill
    total.backward()  # type: ignore[no-untyped-call]


def clip(optimizer: torch.optim.Optimizer, params: Iterable[Tensor], max_norm: float | None) -> None:
    """Clip by the norm of the summed gradient, the same factor for both of DOT's sets."""
    if max_norm is None:
        return
    if isinstance(optimizer, MultiMomentumSGD):  # DOT is one
        optimizer.clip_grad_norm_(max_norm)
    else:
        clip_grad_norm_(params, max_norm)
