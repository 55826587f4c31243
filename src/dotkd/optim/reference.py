"""The updates of the paper in plain steps, one tensor at a time: slow, and the oracle of every test.

Nothing here is shared with the fast optimizers but the equations.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class ReferenceDOT:
    r"""DOT as the paper writes it.

    The equations, the control and ``normalize`` are those of :class:`dotkd.optim.DOT`.

    Args:
        params: Tensors, updated in place.
        lr: Learning rate.
        momentum: :math:`\mu`.
        delta: :math:`\Delta`.
        weight_decay: :math:`\lambda`.
        dampening: Share of the gradient that does not enter a buffer, except in a parameter's first step.
        nesterov: Nesterov momentum in each stream.
        maximize: Maximize both losses.
        task_gain: Factor on task gradient and decay where both losses reach a parameter.
        distill_gain: Factor on the distillation gradient there.
        normalize: Give both streams the steady-state gain of ``momentum`` there.
        official: Do as the published code does, which forgets the weight decay in the first step of a
            parameter that only the distillation loss reaches.

    Attributes:
        task_buffers: :math:`v_{task}` of each parameter, None before its first step.
        distill_buffers: :math:`v_{distill}` likewise.

    Example:
        >>> weight = torch.tensor([1.0])
        >>> dot = ReferenceDOT([weight], lr=0.1)
        >>> for _ in range(2):
        ...     dot.step([torch.tensor([2.0])], [torch.tensor([3.0])])
        >>> weight  # 1 - 0.1 (2 + 3) - 0.1 (0.825 * 2 + 2 + 0.975 * 3 + 3)
        tensor([-0.4575])

    Reference:
        Zhao, Cui, Song, Liang: DOT: A Distillation-Oriented Trainer, ICCV 2023,
        https://arxiv.org/abs/2307.08436.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        lr: float,
        momentum: float = 0.9,
        delta: float = 0.075,
        weight_decay: float = 0.0,
        *,
        dampening: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
        task_gain: float = 1.0,
        distill_gain: float = 1.0,
        normalize: bool = False,
        official: bool = False,
    ) -> None:
        self.params = list(params)
        self.lr, self.momentum, self.delta, self.weight_decay = lr, momentum, delta, weight_decay
        self.dampening, self.nesterov, self.maximize = dampening, nesterov, maximize
        self.task_gain, self.distill_gain, self.normalize = task_gain, distill_gain, normalize
        self.official = official
        self.task_buffers: list[Tensor | None] = [None] * len(self.params)
        self.distill_buffers: list[Tensor | None] = [None] * len(self.params)

    @torch.no_grad()
    def step(self, task_grads: Sequence[Tensor | None], distill_grads: Sequence[Tensor | None]) -> None:
        """Update every parameter once.

        Args:
            task_grads: The gradient of the task loss for each parameter, None where it has none.
            distill_grads: The gradient of the distillation loss likewise.
        """
        for i, (g_task, g_distill) in enumerate(zip(task_grads, distill_grads, strict=True)):
            if g_task is None and g_distill is None:
                continue
            p = self.params[i]
            first = self.task_buffers[i] is None
            decay = self.weight_decay * p  # of the parameter before the update, in one stream only
            if first:
                self.task_buffers[i] = torch.zeros_like(p)
                self.distill_buffers[i] = torch.zeros_like(p)
            v_task, v_distill = self.task_buffers[i], self.distill_buffers[i]
            if g_task is not None and g_distill is not None:
                low, high = self.momentum - self.delta, self.momentum + self.delta
                a, b = self._gain(self.task_gain, low), self._gain(self.distill_gain, high)
                self._apply(p, v_task, a * (self._sign(g_task) + decay), low, first)
                self._apply(p, v_distill, b * self._sign(g_distill), high, first)
            elif g_task is not None:
                self._apply(p, v_task, self._sign(g_task) + decay, self.momentum, first)
            elif g_distill is not None:
                if self.official and first:
                    decay = torch.zeros_like(p)
                self._apply(p, v_distill, self._sign(g_distill) + decay, self.momentum, first)

    def _sign(self, grad: Tensor) -> Tensor:
        return -grad if self.maximize else grad

    def _gain(self, gain: float, momentum: float) -> float:
        return gain * (1 - momentum) / (1 - self.momentum) if self.normalize else gain

    def _apply(self, p: Tensor, v: Tensor | None, g: Tensor, momentum: float, first: bool) -> None:
        """Enter one stream's gradient into its buffer and its buffer into the parameter."""
        if v is None:
            raise AssertionError("a buffer exists from the first step on")
        if momentum == 0.0:  # as torch.optim.SGD: no memory, the buffer is left alone
            p -= self.lr * g
            return
        v *= 0.0 if first else momentum
        v += g if first else (1 - self.dampening) * g
        p -= self.lr * (g + momentum * v if self.nesterov else v)


def reference_adamw_step(
    p: Tensor,
    g_task: Tensor | None,
    g_distill: Tensor | None,
    state: dict[str, Any],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    delta: float = 0.075,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> None:
    r"""Update one parameter as :class:`dotkd.optim.DOTAdamW` does, whose docstring has the equations.

    Args:
        p: The parameter, updated in place.
        g_task: Gradient of the task loss, or None.
        g_distill: Gradient of the distillation loss, or None; not both None.
        state: Empty before the first step; afterwards the moments and counts.
        lr: Learning rate.
        betas: :math:`\beta_1, \beta_2`.
        delta: :math:`\Delta`.
        eps: :math:`\epsilon`.
        weight_decay: :math:`\lambda`.

    Example:
        >>> p, state = torch.tensor([1.0]), {}
        >>> reference_adamw_step(p, torch.tensor([2.0]), torch.tensor([3.0]), state, lr=0.1, weight_decay=0.0)
        >>> p  # both first moments, bias-corrected, over the root of (2 + 3)^2
        tensor([0.9000])
    """
    beta1, beta2 = betas
    both = g_task is not None and g_distill is not None
    streams = {
        "task": (g_task, beta1 - delta if both else beta1),
        "distill": (g_distill, beta1 + delta if both else beta1),
    }
    total = sum(g for g, _ in streams.values() if g is not None)
    p *= 1 - lr * weight_decay
    t = state["t"] = state.get("t", 0) + 1
    v = state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * total**2
    root = (v / (1 - beta2**t)) ** 0.5
    for name, (g, beta) in streams.items():
        if g is not None:
            t_s = state[f"t_{name}"] = state.get(f"t_{name}", 0) + 1
            m = state[f"m_{name}"] = beta * state.get(f"m_{name}", 0) + (1 - beta) * g
            p -= lr * (m / (1 - beta**t_s)) / (root + eps)
