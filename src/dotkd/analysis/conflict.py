"""How far the gradients of the two losses agree: direction, length and sign."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Conflict(NamedTuple):
    """Two gradients, compared.

    Attributes:
        cosine: <g_task, g_distill> / (|g_task| |g_distill|), in [-1, 1]; NaN where one of them is zero.
        norm_ratio: |g_task| / |g_distill|; infinite where the latter is zero.
        sign_disagreement: Share of the coordinates, out of those where both are non-zero, that point in
            opposite directions; 0 if there is none.
    """

    cosine: float
    norm_ratio: float
    sign_disagreement: float


def gradient_conflict(
    task_loss: Callable[[], Tensor], distill_loss: Callable[[], Tensor], params: Sequence[Tensor]
) -> Conflict:
    """Compare the gradients of two losses.

    Each loss is evaluated anew and differentiated on its own; ``.grad`` is not touched. A parameter that a
    loss does not reach counts as zero there. Sums run in float64.

    Args:
        task_loss: Returns the task loss, a scalar that depends on the parameters.
        distill_loss: Returns the distillation loss, likewise.
        params: The tensors to differentiate by.

    Returns:
        Cosine, norm ratio and disagreement over all parameters together.

    Example:
        >>> weight = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> direction = torch.tensor([3.0, 4.0])
        >>> gradient_conflict(lambda: weight[0], lambda: (weight * direction).sum(), [weight])
        Conflict(cosine=0.6, norm_ratio=0.2, sign_disagreement=0.0)
    """
    task, distill = (_gradient(loss, params) for loss in (task_loss, distill_loss))
    both = (task != 0) & (distill != 0)
    opposite = ((task < 0) != (distill < 0)) & both
    task_norm, distill_norm = task.norm(), distill.norm()
    return Conflict(
        float(torch.dot(task, distill) / (task_norm * distill_norm)),
        float(task_norm / distill_norm),
        float(opposite.sum()) / max(int(both.sum()), 1),
    )


def _gradient(loss: Callable[[], Tensor], params: Sequence[Tensor]) -> Tensor:
    with torch.enable_grad():
        grads = torch.autograd.grad(loss(), params, allow_unused=True)
    flat = [torch.zeros_like(p) if grad is None else grad for p, grad in zip(params, grads, strict=True)]
    return torch.cat([grad.reshape(-1).double() for grad in flat])
