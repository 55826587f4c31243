"""DOT, the Distillation-Oriented Trainer: the task and the distillation gradient, remembered apart."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .checks import check_not_negative, check_window
from .lazy import LazyTask, check_task_every, nothing_held
from .momentum import MultiMomentumSGD, buffer_key, check_sgd_options
from .streams import StreamOptimizer

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class DOT(LazyTask, MultiMomentumSGD):
    r"""Distillation-Oriented Trainer: a momentum of its own for the task and for the distillation gradient.

    For a parameter :math:`p` that both losses reach:

    .. math::
        v_{task} &\leftarrow (\mu - \Delta) \, v_{task} + g_{task} + \lambda p \\
        v_{distill} &\leftarrow (\mu + \Delta) \, v_{distill} + g_{distill} \\
        p &\leftarrow p - \gamma \, (v_{task} + v_{distill})

    with :math:`\mu` = ``momentum``, :math:`\Delta` = ``delta``, :math:`\lambda` = ``weight_decay`` and
    :math:`\gamma` = ``lr``. A parameter that one loss reaches (a classifier under a feature loss, a
    projector that only distillation trains) gets plain momentum :math:`\mu` and the decay in that one
    stream. ``delta=0`` is ``torch.optim.SGD`` on the summed loss, to rounding, as long as the same losses
    reach a parameter in every step.

    **Gains, and the control.** Under a constant gradient a buffer of momentum :math:`m` settles at
    :math:`g / (1 - m)`. So :math:`\Delta` changes not only how long each gradient is remembered but also
    how much it weighs: against plain momentum the task gradient and the decay weigh :math:`a` times as
    much and the distillation gradient :math:`b` times, with

    .. math::
        a = \frac{1 - \mu}{1 - (\mu - \Delta)}, \qquad b = \frac{1 - \mu}{1 - (\mu + \Delta)},

    0.57 and 4 at :math:`\mu = 0.9, \Delta = 0.075`. Two options take the two effects apart:

    - the *control* has DOT's weights and plain SGD's memory: ``delta=0, task_gain=a, distill_gain=b``
      multiplies :math:`g_{task} + \lambda p` by :math:`a` and :math:`g_{distill}` by :math:`b` before they
      enter their buffers. Where both losses reach every parameter, it equals SGD on the loss
      :math:`a L_{task} + b L_{distill}` with decay :math:`a \lambda`. :func:`matched_gains` returns a, b.
    - ``normalize=True`` has DOT's memory and plain SGD's weights: what enters a buffer of momentum
      :math:`m` is multiplied by :math:`(1 - m) / (1 - \mu)`, that is by :math:`1/a` and :math:`1/b`, so
      every stream settles at :math:`g / (1 - \mu)`.

    Both act only on parameters that both losses reach: elsewhere DOT is plain momentum already. Clipping
    looks at the gradients before these factors.

    Args:
        params: Parameters, named parameters or parameter groups; each group may have its own ``lr``,
            ``momentum``, ``delta``, ``weight_decay`` and so on.
        lr: Learning rate, >= 0; a float or a tensor of one element.
        momentum: Mean momentum :math:`\mu` of the two streams.
        delta: Half the distance of the two momenta; both ``momentum - delta`` and ``momentum + delta``
            must lie in [0, 1), here and whenever a scheduler writes one of them. May be negative. The
            paper uses 0.075 on CIFAR-100 and Tiny-ImageNet, 0.09 on ImageNet.
        weight_decay: L2 penalty, >= 0; part of the task stream.
        task_gain: Factor >= 0 on task gradient and decay.
        distill_gain: Factor >= 0 on the distillation gradient.
        normalize: Give both streams the steady-state gain of ``momentum``.
        dampening: As in ``torch.optim.SGD``, in each stream.
        nesterov: As in ``torch.optim.SGD``, in each stream.
        maximize: Maximize both losses.
        foreach: Use torch's foreach implementation; None chooses.
        fused: Use torch's fused implementation; None chooses it where it is correct, True raises where it
            is not.
        process_group: Average both gradient sets over these processes (``dist.group.WORLD`` for all);
            None for a single process and under FSDP. The model itself is not wrapped in
            DistributedDataParallel, which averages the first of two backward passes only.
        local_buffers: Keep the buffers on their process and average the update alone, the same to rounding
            with half the message; see :class:`~dotkd.optim.local.LocalBuffers`. Not with clipping, and
            :meth:`consolidate` comes before :meth:`state_dict`.
        task_every: :math:`K` >= 1. 1 is exact, and the default. With more, **an approximation** for a task
            gradient much smaller than the distillation gradient: the task gradient is computed in every
            K-th step, held, and subtracted from the gradient of both losses in the others, which run one
            backward pass; see :class:`~dotkd.optim.lazy.LazyTask`. Another N numbers of memory.

    Raises:
        ValueError: A value is out of range, or ``local_buffers`` without ``process_group``.

    Example:
        >>> student, teacher = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
        >>> opt = DOT(student.parameters(), lr=0.05, momentum=0.9, delta=0.075, weight_decay=5e-4)
        >>> images, labels = torch.randn(8, 4), torch.randint(3, (8,))
        >>> logits = student(images)
        >>> task = torch.nn.functional.cross_entropy(logits, labels)
        >>> distill = torch.nn.functional.mse_loss(logits, teacher(images).detach())
        >>> opt.backward(task=task, distill=distill)
        >>> opt.step()
        >>> opt.zero_grad()

    Reference:
        Zhao, Cui, Song, Liang: DOT: A Distillation-Oriented Trainer, ICCV 2023,
        https://arxiv.org/abs/2307.08436.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        momentum: float = 0.9,
        delta: float = 0.075,
        weight_decay: float = 0.0,
        *,
        task_gain: float = 1.0,
        distill_gain: float = 1.0,
        normalize: bool = False,
        dampening: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        process_group: "ProcessGroup | None" = None,
        local_buffers: bool = False,
        task_every: int = 1,
    ) -> None:
        check_task_every(task_every)
        self.task_every = task_every
        self._keep_local(local_buffers, process_group)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "delta": delta,
            "weight_decay": weight_decay,
            "task_gain": task_gain,
            "distill_gain": distill_gain,
            "normalize": normalize,
            "dampening": dampening,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
        }
        # Not MultiMomentumSGD's constructor: a group of DOT spells its momenta as momentum and delta.
        StreamOptimizer.__init__(self, params, defaults, process_group)

    def _check_group(self, group: dict[str, Any], hint: str = "") -> None:
        check_window("momentum", group["momentum"], group["delta"], hint)
        check_not_negative("task_gain", group["task_gain"])
        check_not_negative("distill_gain", group["distill_gain"])
        check_sgd_options(group, group["momentum"])

    def _schedule_hint(self) -> str:
        return "; a scheduler that cycles the momentum, such as OneCycleLR, needs cycle_momentum=False"

    def _momenta(self, group: dict[str, Any]) -> dict[str, float]:
        momentum, delta = group["momentum"], group["delta"]
        return {"task": momentum - delta, "distill": momentum + delta}

    def _plain_momentum(self, group: dict[str, Any]) -> float:
        return float(group["momentum"])

    def _gain(self, group: dict[str, Any], stream: str) -> float:
        return float(group[f"{stream}_gain"])

    def _new_state(self, param: Tensor) -> dict[str, Any]:
        buffers = MultiMomentumSGD._new_state(self, param)
        return buffers if self.task_every == 1 else {**buffers, **nothing_held(param)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of DOT, or of the published optimizer; pending gradients are dropped.

        The published optimizer's state is known by its group key ``momentum_kd``; its two momenta become
        ``momentum`` and ``delta``, and options it does not have keep the values of this optimizer. A state
        saved with another ``task_every`` loads; without a held task gradient the next step computes one.

        Raises:
            ValueError: The state is another optimizer's.
        """
        groups = state_dict["param_groups"]
        if groups and all("momentum_kd" in group for group in groups):
            state_dict = self._from_published(state_dict)
        super().load_state_dict(state_dict)

    def _from_published(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        groups = []
        for index, group in enumerate(state_dict["param_groups"]):
            low, high = group["momentum"], group["momentum_kd"]
            own = self.param_groups[index] if index < len(self.param_groups) else self.defaults
            kept = {key: value for key, value in own.items() if key in self.defaults}
            theirs = {key: value for key, value in group.items() if key != "momentum_kd"}
            groups.append({**kept, **theirs, "momentum": (low + high) / 2, "delta": (high - low) / 2})
        state = {}
        for index, buffers in state_dict["state"].items():
            task, distill = buffers.get("momentum_buffer"), buffers.get("momentum_kd_buffer")
            there = task if task is not None else distill
            if there is None:
                raise ValueError(f"not a state of the published optimizer: parameter {index} has no buffer")
            state[index] = {
                buffer_key("task"): torch.zeros_like(there) if task is None else task,
                buffer_key("distill"): torch.zeros_like(there) if distill is None else distill,
            }
        return {"state": state, "param_groups": groups}


def matched_gains(momentum: float, delta: float) -> tuple[float, float]:
    r"""Return the gains that give plain momentum the steady-state weights of DOT.

    :math:`a = (1 - \mu) / (1 - \mu + \Delta)` for the task and :math:`b = (1 - \mu) / (1 - \mu - \Delta)` for
    the distillation gradient.

    Args:
        momentum: :math:`\mu`, DOT's ``momentum``.
        delta: :math:`\Delta`, DOT's ``delta``; both momenta must lie in [0, 1).

    Returns:
        ``(task_gain, distill_gain)``.

    Raises:
        ValueError: A momentum lies outside [0, 1).

    Example:
        >>> task_gain, distill_gain = matched_gains(0.9, 0.075)
        >>> round(task_gain, 3), round(distill_gain, 3)
        (0.571, 4.0)
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> control = DOT([weight], lr=0.05, delta=0, task_gain=task_gain, distill_gain=distill_gain)
    """
    check_window("momentum", momentum, delta)
    return (1 - momentum) / (1 - momentum + delta), (1 - momentum) / (1 - momentum - delta)
