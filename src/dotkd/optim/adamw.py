"""DOTAdamW: the two memories of DOT in AdamW."""

import math
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ._checks import check_not_negative, check_unit, check_window
from .base import Batch, StreamOptimizer, TaskAndDistill

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class DOTAdamW(TaskAndDistill, StreamOptimizer):  # type: ignore[misc]  # backward() takes two losses by name
    r"""AdamW with a first moment of its own for the task and for the distillation gradient.

    In step :math:`t`, for a parameter :math:`p` that both losses :math:`s` reach, with
    :math:`\beta_{task} = \beta_1 - \Delta` and :math:`\beta_{distill} = \beta_1 + \Delta`:

    .. math::
        p &\leftarrow (1 - \gamma \lambda) \, p \\
        m_s &\leftarrow \beta_s m_s + (1 - \beta_s) \, g_s \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) (g_{task} + g_{distill})^2 \\
        p &\leftarrow p - \gamma \sum_s \frac{m_s}{1 - \beta_s^{t_s}}
            \Big/ \Big( \sqrt{v / (1 - \beta_2^t)} + \epsilon \Big)

    :math:`(\beta_1, \beta_2)` = ``betas``, :math:`\Delta` = ``delta``, :math:`\gamma` = ``lr``,
    :math:`\lambda` = ``weight_decay``, :math:`\epsilon` = ``eps``; :math:`t_s` counts the steps in which
    loss :math:`s` reached the parameter. Where one loss reaches a parameter, its :math:`\beta` is
    :math:`\beta_1`. A stream without a gradient is neither decayed nor applied. ``delta=0`` is
    ``torch.optim.AdamW`` on the summed loss, to rounding, as long as the same losses reach a parameter in
    every step. A first moment is a mean, its weights sum to one whatever :math:`\beta`: unlike in
    :class:`DOT`, delta changes the memory of a gradient and not its weight. A complex parameter is updated as
    its real and its imaginary part.

    Args:
        params: Parameters, named parameters or parameter groups.
        lr: Learning rate, >= 0; a float or a tensor of one element.
        betas: :math:`\beta_1` and :math:`\beta_2`, each in [0, 1); floats or tensors of one element.
        delta: Half the distance of the two first betas; ``betas[0] - delta`` and ``betas[0] + delta``
            must lie in [0, 1), here and whenever a scheduler writes one of them.
        eps: Added to the denominator, >= 0.
        weight_decay: Decoupled weight decay, >= 0.
        maximize: Maximize both losses.
        process_group: Average both gradient sets of plain parameters over these processes; None for a single
            process and for parameters under FSDP, False for processes that are independent.

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = DOTAdamW([weight], lr=0.1, weight_decay=0.0)
        >>> opt.backward(task=weight.sum(), distill=weight.square().sum())
        >>> opt.step()
        >>> weight
        Parameter containing:
        tensor([0.9000], requires_grad=True)

    Reference:
        The idea of DOT (Zhao et al., ICCV 2023, https://arxiv.org/abs/2307.08436) carried over to AdamW
        (Loshchilov and Hutter, ICLR 2019, https://arxiv.org/abs/1711.05101, algorithm 2). Not in the paper.
    """

    _known_by = ("betas", "delta")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        delta: float = 0.075,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        maximize: bool = False,
        process_group: "ProcessGroup | Literal[False] | None" = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "delta": delta,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults, ("task", "distill"), process_group)

    def momenta(self, group: dict[str, Any] | None = None) -> dict[str, float]:
        """Return the first beta of each stream for parameters that both losses reach.

        Args:
            group: A parameter group; None for the first one.

        Returns:
            ``{"task": betas[0] - delta, "distill": betas[0] + delta}``.
        """
        group = self.param_groups[0] if group is None else group
        beta, delta = float(group["betas"][0]), group["delta"]
        return {"task": beta - delta, "distill": beta + delta}

    def _check_group(self, group: dict[str, Any], hint: str = "") -> None:
        beta1, beta2 = group["betas"]
        check_window("betas[0]", beta1, group["delta"], hint)
        check_unit("betas[1]", beta2)
        check_not_negative("eps", group["eps"])
        check_not_negative("weight_decay", group["weight_decay"])

    def _new_state(self, param: Tensor) -> dict[str, Any]:
        return {
            "exp_avg_sq": torch.zeros_like(param),
            "steps": 0,
            **{f"{name}_exp_avg": torch.zeros_like(param) for name in self.streams},
            **{f"{name}_steps": 0 for name in self.streams},
        }

    def _age(self, state: dict[str, Any]) -> Hashable:
        return tuple([state.get(key, 0) for key in ("steps", *(f"{name}_steps" for name in self.streams))])

    def _update(self, batch: Batch) -> None:
        group, params, grads_of, states = batch
        lr, (beta1, beta2) = float(group["lr"]), map(float, group["betas"])
        for param, state in zip(params, states, strict=True):
            if "steps" not in state:
                self._init_state(param, state)
            for key in ("steps", *(f"{name}_steps" for name in grads_of)):
                state[key] += 1
        params = _real(params)
        columns = {name: _real(grads) for name, grads in grads_of.items()}
        if group["maximize"]:
            columns = {name: list(torch._foreach_neg(column)) for name, column in columns.items()}

        total, *others = columns.values()
        for other in others:
            total = list(torch._foreach_add(total, other))
        squares = _real([state["exp_avg_sq"] for state in states])
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, total, total, 1 - beta2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, math.sqrt(1 - beta2 ** states[0]["steps"]))
        torch._foreach_add_(roots, group["eps"])

        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        for name, column in columns.items():
            beta = self.momenta(group)[name] if others else beta1
            means = _real([state[f"{name}_exp_avg"] for state in states])
            torch._foreach_lerp_(means, column, 1 - beta)
            torch._foreach_addcdiv_(params, means, roots, -lr / (1 - beta ** states[0][f"{name}_steps"]))


def _real(tensors: list[Tensor]) -> list[Tensor]:
    """Return complex tensors as views of their real and imaginary parts, others as they are."""
    return [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
