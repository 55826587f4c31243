"""Momentum SGD with one buffer per stream: the N-stream rule of which DOT is the two-stream preset."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd

from .checks import check_not_negative, check_unit
from .gradients import Sets, present
from .kernels import Kernel, runs, split_by_kernel
from .local import LocalBuffers

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class MultiMomentumSGD(LocalBuffers):
    r"""SGD that keeps a momentum buffer for each of several losses.

    For a parameter :math:`p` that the losses :math:`s \in S` reach, with the first of them, :math:`s_0`,
    carrying the weight decay :math:`\lambda`:

    .. math::
        v_s &\leftarrow m_s v_s + (1 - \tau) \, c_s \, (g_s + [s = s_0] \, \lambda p) \\
        p &\leftarrow p - \gamma \sum_{s \in S} v_s

    :math:`g_s` is the gradient of loss :math:`s`, :math:`m_s` = ``momenta[s]``, :math:`\gamma` = ``lr``,
    :math:`\lambda` = ``weight_decay``, :math:`\tau` = ``dampening`` (not applied to a parameter's first
    step, as in ``torch.optim.SGD``) and :math:`c_s` = ``gains[s]``, times :math:`(1 - m_s) / (1 - \mu)`
    with ``normalize=True``, where :math:`\mu` = ``momentum``. Where only one loss reaches a parameter,
    :math:`m_s = \mu` and :math:`c_s = 1`. A stream without a gradient for a parameter is neither decayed
    nor applied to it in that step. Each stream is one call of ``torch.optim.sgd.sgd``, so nesterov,
    maximize, dampening, foreach and fused mean what they mean there; a stream of momentum 0 has no memory
    and leaves its buffer alone.

    Args:
        params: Parameters, named parameters or parameter groups.
        lr: Learning rate, >= 0; a float or a tensor of one element.
        momenta: Momentum of each stream in [0, 1). The first name is the primary stream, whose gradient
            is in ``.grad``; by this order the weight decay goes to the first stream that reaches a
            parameter.
        momentum: Momentum in [0, 1) for parameters that one loss reaches; None: the mean of ``momenta``.
        weight_decay: L2 penalty, >= 0.
        gains: Factor, >= 0, on each stream's gradient and decay; streams left out have 1.
        normalize: Scale each stream so that its steady-state gain is that of ``momentum``.
        dampening: Share of the gradient that is not added, in [0, 1].
        nesterov: Nesterov momentum; needs a momentum and no dampening.
        maximize: Maximize the losses.
        foreach: Use torch's foreach implementation; None chooses.
        fused: Use torch's fused implementation; None chooses it where it is correct, True raises where it
            is not.
        process_group: Average all gradient sets over these processes; None for a single process.
        local_buffers: Keep the buffers on their process and average the update alone, the same to rounding
            with a message that is as many times shorter as there are streams. Not with clipping; see
            :meth:`consolidate`.

    Raises:
        ValueError: A value is out of range, or ``local_buffers`` without ``process_group``.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = MultiMomentumSGD([weight], lr=0.1, momenta={"task": 0.9, "hint": 0.5, "relation": 0.0})
        >>> opt.backward(task=weight.sum(), hint=2 * weight.sum(), relation=3 * weight.sum())
        >>> opt.step()
        >>> weight
        Parameter containing:
        tensor([0.4000], requires_grad=True)

    Reference:
        The update of DOT (Zhao et al., ICCV 2023, https://arxiv.org/abs/2307.08436), for any number of
        losses.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        momenta: Mapping[str, float],
        *,
        momentum: float | None = None,
        weight_decay: float = 0.0,
        gains: Mapping[str, float] | None = None,
        normalize: bool = False,
        dampening: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        process_group: "ProcessGroup | None" = None,
        local_buffers: bool = False,
    ) -> None:
        self._keep_local(local_buffers, process_group)
        if not momenta:
            raise ValueError("momenta must name at least one stream, got none")
        defaults = {
            "lr": lr,
            "momenta": dict(momenta),
            "momentum": momentum,
            "weight_decay": weight_decay,
            "gains": dict(gains or {}),
            "normalize": normalize,
            "dampening": dampening,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
        }
        super().__init__(params, defaults, process_group)

    @property
    def streams(self) -> tuple[str, ...]:
        """The names in ``momenta``."""
        return tuple(self.defaults["momenta"])

    def _check_group(self, group: dict[str, Any], hint: str = "") -> None:
        if tuple(group["momenta"]) != self.streams:
            raise ValueError(
                f"momenta must name the streams {list(self.streams)} in this order, "
                f"got {list(group['momenta'])}{hint}"
            )
        for name, value in group["momenta"].items():
            check_unit(f"momenta[{name!r}]", value, hint)
        if group["momentum"] is not None:
            check_unit("momentum", group["momentum"], hint)
        for name, gain in group["gains"].items():
            if name not in self.streams:
                raise ValueError(f"gains must name streams out of {list(self.streams)}, got {name!r}")
            check_not_negative(f"gains[{name!r}]", gain)
        check_sgd_options(group, self._plain_momentum(group))

    def _momenta(self, group: dict[str, Any]) -> dict[str, float]:
        """Return the momentum of each stream, for parameters that several streams reach."""
        momenta: dict[str, float] = group["momenta"]
        return momenta

    def _plain_momentum(self, group: dict[str, Any]) -> float:
        """Return the momentum of a stream that reaches a parameter alone."""
        if group["momentum"] is not None:
            return float(group["momentum"])
        return math.fsum(group["momenta"].values()) / len(group["momenta"])

    def _gain(self, group: dict[str, Any], stream: str) -> float:
        """Return the factor of a stream before ``normalize``, for parameters that several streams reach."""
        return float(group["gains"].get(stream, 1.0))

    def _new_state(self, param: Tensor) -> dict[str, Any]:
        return {buffer_key(name): torch.zeros_like(param) for name in self.streams}

    def _plan(self, group: dict[str, Any], sets: Sets) -> list[Callable[[], None]]:
        """Plan the updates of a group, in as few calls as the differences of its parameters allow."""
        params: list[Tensor] = group["params"]
        reached = [0] * len(params)
        for bit, grads in enumerate(sets.values()):
            for i, grad in enumerate(grads):
                if grad is not None:
                    reached[i] |= 1 << bit
        rows_of: dict[tuple[int, bool], list[int]] = {}
        for i, streams in enumerate(reached):
            if streams:
                rows_of.setdefault((streams, bool(self.state.get(params[i]))), []).append(i)
        updates: list[Callable[[], None]] = []
        for (streams, has_state), rows in rows_of.items():
            grads_of = {
                name: present([grads[i] for i in rows])
                for bit, (name, grads) in enumerate(sets.items())
                if streams >> bit & 1
            }
            alike = [params[i] for i in rows]
            tensors = list(grads_of.values())
            if has_state:
                tensors += [[self.state[p][key] for p in alike] for key in map(buffer_key, grads_of)]
            parts = split_by_kernel(group, alike, tensors)
            updates.append(partial(self._update, group, alike, grads_of, parts))
        return updates

    def _update(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads_of: dict[str, list[Tensor]],
        parts: list[tuple[Kernel, Sequence[int]]],
    ) -> None:
        """Update parameters that the same streams reach, all of them new or none."""
        states = [self.state[p] for p in params]
        momenta, plain = self._momenta(group), self._plain_momentum(group)
        shared = len(grads_of) > 1
        first = next(iter(grads_of))
        targets = self._targets(group, params)
        for kernel, rows in [(kernel, run) for kernel, all_rows in parts for run in runs(params, all_rows)]:
            for name, grads in grads_of.items():
                momentum = momenta[name] if shared else plain
                gain = self._gain(group, name) if shared else 1.0
                if shared and group["normalize"]:
                    gain *= (1 - momentum) / (1 - plain)
                self._apply(
                    group,
                    kernel,
                    [params[i] for i in rows],
                    [targets[i] for i in rows],
                    [grads[i] for i in rows],
                    [states[i] for i in rows],
                    buffer_key(name),
                    momentum=momentum,
                    gain=gain,
                    # In the first stream that reaches the parameter, and before any of them moves it.
                    weight_decay=group["weight_decay"] if name == first else 0.0,
                    lr=group["lr"] if targets is params else None,
                )
        if len(states[0]) < len(self.streams):
            # All buffers from the first step on: a checkpoint has the same keys for every parameter.
            for param, state in zip(params, states, strict=True):
                state.update({key: new for key, new in self._new_state(param).items() if key not in state})

    @staticmethod
    def _apply(
        group: dict[str, Any],
        kernel: Kernel,
        params: list[Tensor],
        targets: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Any]],
        key: str,
        *,
        momentum: float,
        gain: float,
        weight_decay: float,
        lr: Any,
    ) -> None:
        """Enter one stream's gradients into its buffers, and these into the targets.

        These are the parameters, or with ``lr=None`` something else, to which the buffers are added as they
        are.
        """
        buffers = [state.get(key) for state in states]
        if lr is None:
            if weight_decay != 0.0:  # of the parameters, which torch does not see
                sign = -1 if group["maximize"] else 1
                grads = list(torch._foreach_add(grads, params, alpha=sign * weight_decay))
            weight_decay, lr = 0.0, -1.0
        # torch's foreach kernel adds the Nesterov term to the gradients themselves.
        if gain != 1.0 or (kernel == "foreach" and group["nesterov"]):
            grads = list(torch._foreach_mul(grads, gain))
        sgd(
            targets,
            grads,
            buffers,
            weight_decay=gain * weight_decay,
            momentum=momentum,
            lr=lr,
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            foreach=kernel == "foreach",
            fused=kernel == "fused",
        )
        if key not in states[0]:  # torch made the buffers, but for a stream without memory
            for param, state, buffer in zip(params, states, buffers, strict=True):
                state[key] = torch.zeros_like(param) if buffer is None else buffer


def buffer_key(stream: str) -> str:
    """Return the state key of a stream's momentum buffer."""
    return f"{stream}_momentum_buffer"


def check_sgd_options(group: Mapping[str, Any], momentum: float) -> None:
    """Refuse invalid values of the options that the momentum optimizers share with torch.optim.SGD."""
    check_not_negative("weight_decay", group["weight_decay"])
    if not 0.0 <= group["dampening"] <= 1.0:
        raise ValueError(f"dampening must lie in [0, 1], got {group['dampening']}")
    if group["nesterov"] and (momentum == 0.0 or group["dampening"] != 0.0):
        raise ValueError(
            f"nesterov needs a momentum > 0 and dampening 0, got momentum={momentum:.6g} and "
            f"dampening={group['dampening']:.6g}"
        )
    if group["fused"] and group["foreach"]:
        raise ValueError("fused and foreach cannot both be True")
