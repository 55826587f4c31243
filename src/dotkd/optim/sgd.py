"""Momentum SGD with a buffer for each of several losses, in the shape of ``torch.optim.SGD``.

:class:`MultiMomentumSGD` has the rule for any number of losses, :class:`DOT` its paper's two streams with
the momenta spelled as ``momentum`` and ``delta``. Each stream is one call of ``torch.optim.sgd.sgd``. Also
here: the gains of DOT's control and the momenta of DeepKD.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd

from ._checks import check_not_negative, check_unit, check_window
from .base import Batch, StreamOptimizer, TaskAndDistill
from .gradients import Sets

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class MultiMomentumSGD(StreamOptimizer):
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
        foreach: As in ``torch.optim.SGD``; with ``foreach`` and ``fused`` None, torch chooses.
        fused: As in ``torch.optim.SGD``; ``step()`` raises where torch's kernel would be wrong.
        process_group: Average all gradient sets of plain parameters over these processes
            (``dist.group.WORLD`` for all); None for a single process and for parameters under FSDP, which
            averages by itself; False for processes that are independent.

    Raises:
        ValueError: A value is out of range.

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

    _known_by: tuple[str, ...] = ("momenta",)

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
        process_group: "ProcessGroup | Literal[False] | None" = None,
        _spelled: Mapping[str, Any] | None = None,  # a subclass's group keys for momenta, momentum and gains
    ) -> None:
        if not momenta:
            raise ValueError("momenta must name at least one stream, got none")
        own = {"momenta": dict(momenta), "momentum": momentum, "gains": dict(gains or {})}
        defaults = {
            "lr": lr,
            **(own if _spelled is None else _spelled),
            "weight_decay": weight_decay,
            "normalize": normalize,
            "dampening": dampening,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
        }
        super().__init__(params, defaults, tuple(momenta), process_group)

    def momenta(self, group: dict[str, Any] | None = None) -> dict[str, float]:
        """Return the momentum of each stream for parameters that several losses reach.

        Args:
            group: A parameter group; None for the first one.

        Returns:
            Stream -> momentum.
        """
        return dict((self.param_groups[0] if group is None else group)["momenta"])

    def _gain(self, group: dict[str, Any], stream: str) -> float:
        """Return the factor of a stream before ``normalize``, for parameters that several streams reach."""
        return float(group["gains"].get(stream, 1.0))

    def _plain_momentum(self, group: dict[str, Any]) -> float:
        """Return the momentum of a stream that reaches a parameter alone."""
        if group["momentum"] is not None:
            return float(group["momentum"])
        return math.fsum(group["momenta"].values()) / len(group["momenta"])

    def _check_group(self, group: dict[str, Any], hint: str = "") -> None:
        momenta, momentum = group["momenta"], group["momentum"]
        if tuple(momenta) != self.streams:
            raise ValueError(
                f"momenta must name the streams {list(self.streams)} in this order, got {list(momenta)}"
            )
        for name, value in momenta.items():
            check_unit(f"momenta[{name!r}]", value)
        self._check_options(group)
        if momentum is not None:
            check_unit("momentum", momentum, hint)
        if hint and "base_momentum" in group:  # written by torch's schedulers that cycle it
            raise ValueError(
                f"a scheduler moves momentum, now {momentum:.6g}, but not the momenta of the streams, "
                f"{momenta}{hint}"
            )
        for name, gain in group["gains"].items():
            if name not in self.streams:
                raise ValueError(f"gains must name streams out of {list(self.streams)}, got {name!r}")
            check_not_negative(f"gains[{name!r}]", gain)

    def _check_options(self, group: dict[str, Any]) -> None:
        """Refuse invalid values of the options that are those of ``torch.optim.SGD``."""
        momentum = self._plain_momentum(group)
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

    def _new_state(self, param: Tensor) -> dict[str, Any]:
        return {_buffer(name): torch.zeros_like(param) for name in self.streams}

    def _age(self, state: dict[str, Any]) -> Hashable:
        return _buffer(self._streams[0]) in state  # all buffers are made in the first step

    def _init_group(self, group: dict[str, Any], sets: Sets) -> list[Batch]:
        batches = super()._init_group(group, sets)
        if group["fused"]:
            for _, params, grads_of, states in batches:
                keys = [key for key in map(_buffer, self._streams) if key in states[0]]
                buffers = [[state[key] for state in states] for key in keys]
                _check_fused(params, list(grads_of.values()), buffers)
        return batches

    def _update(self, batch: Batch) -> None:
        group, params, grads_of, states = batch
        momenta, plain = self.momenta(group), self._plain_momentum(group)
        keys = {name: _buffer(name) for name in self._streams}
        new = keys[self._streams[0]] not in states[0]
        first, several = next(iter(grads_of)), len(grads_of) > 1
        for name, grads in grads_of.items():
            momentum = momenta[name] if several else plain
            gain = self._gain(group, name) if several else 1.0
            if several and group["normalize"]:
                gain *= (1 - momentum) / (1 - plain)
            # torch's foreach code adds the Nesterov term to the gradients themselves.
            foreach_may_edit = group["nesterov"] and group["foreach"] is not False and not group["fused"]
            if gain != 1.0 or foreach_may_edit:
                grads = list(torch._foreach_mul(grads, gain))
            buffers = [state.get(keys[name]) for state in states]
            sgd(
                params,
                grads,
                buffers,
                # In the first stream that reaches the parameter, and before any of them moves it.
                weight_decay=gain * group["weight_decay"] if name == first else 0.0,
                momentum=momentum,
                lr=group["lr"],
                dampening=group["dampening"],
                nesterov=group["nesterov"],
                maximize=group["maximize"],
                foreach=group["foreach"],
                fused=group["fused"],
            )
            for state, buffer in zip(states, buffers, strict=True):
                if buffer is not None:  # of a stream with memory
                    state[keys[name]] = buffer
        if new:
            # All buffers from the first step on: a checkpoint has the same keys for every parameter.
            for param, state in zip(params, states, strict=True):
                self._init_state(param, state)


class DOT(TaskAndDistill, MultiMomentumSGD):  # type: ignore[misc]  # backward() takes its two losses by name
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
      enter their buffers. :func:`matched_gains` returns a, b. Where both losses reach every parameter, the
      control is SGD on rescaled losses, at the price of one backward pass::

          a, b = matched_gains(momentum=0.9, delta=0.075)
          opt = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9, weight_decay=a * weight_decay)
          (a * task + b * distill).backward()

    - ``normalize=True`` has DOT's memory and plain SGD's weights: the input of a buffer of momentum
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
        foreach: As in ``torch.optim.SGD``; with ``foreach`` and ``fused`` None, torch chooses.
        fused: As in ``torch.optim.SGD``; ``step()`` raises where torch's kernel would be wrong. Worth
            asking for on CUDA: torch does not choose it by itself.
        process_group: Average both gradient sets of plain parameters over these processes
            (``dist.group.WORLD`` for all); None for a single process and for parameters under FSDP, which
            averages by itself; False for processes that are independent. The model itself is not wrapped in
            DistributedDataParallel, which averages the first of two backward passes only.

    Raises:
        ValueError: A value is out of range.

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

    _known_by = ("momentum", "delta")

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
        process_group: "ProcessGroup | Literal[False] | None" = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            {"task": momentum - delta, "distill": momentum + delta},
            weight_decay=weight_decay,
            normalize=normalize,
            dampening=dampening,
            nesterov=nesterov,
            maximize=maximize,
            foreach=foreach,
            fused=fused,
            process_group=process_group,
            _spelled={
                "momentum": momentum,
                "delta": delta,
                "task_gain": task_gain,
                "distill_gain": distill_gain,
            },
        )

    def momenta(self, group: dict[str, Any] | None = None) -> dict[str, float]:
        """Return the momentum of each stream for parameters that both losses reach.

        Args:
            group: A parameter group; None for the first one.

        Returns:
            ``{"task": momentum - delta, "distill": momentum + delta}``.
        """
        group = self.param_groups[0] if group is None else group
        momentum, delta = group["momentum"], group["delta"]
        return {"task": momentum - delta, "distill": momentum + delta}

    def _gain(self, group: dict[str, Any], stream: str) -> float:
        return float(group[f"{stream}_gain"])

    def _check_group(self, group: dict[str, Any], hint: str = "") -> None:
        self._check_options(group)
        check_window("momentum", group["momentum"], group["delta"], hint)
        check_not_negative("task_gain", group["task_gain"])
        check_not_negative("distill_gain", group["distill_gain"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of DOT, or of the published optimizer.

        Pending gradients are dropped, those in ``.grad`` too. A group key that the state lacks keeps this
        optimizer's value. The published optimizer's state is known by its group key ``momentum_kd``; its
        two momenta become ``momentum`` and ``delta``.

        Raises:
            ValueError: The state is another optimizer's, or another model's.
        """
        groups = state_dict["param_groups"]
        if groups and all("momentum_kd" in group for group in groups):
            state_dict = _from_published(state_dict)
        super().load_state_dict(state_dict)


def _from_published(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state of the published optimizer as one of DOT; the one given stays as it is."""
    groups = []
    for group in state_dict["param_groups"]:
        low, high = group["momentum"], group["momentum_kd"]
        theirs = {key: value for key, value in group.items() if key != "momentum_kd"}
        groups.append({**theirs, "momentum": (low + high) / 2, "delta": (high - low) / 2})
    state = {}
    for index, buffers in state_dict["state"].items():
        task, distill = buffers.get("momentum_buffer"), buffers.get("momentum_kd_buffer")
        there = task if task is not None else distill
        if there is None:
            raise ValueError(f"not a state of the published optimizer: parameter {index} has no buffer")
        state[index] = {
            _buffer("task"): torch.zeros_like(there) if task is None else task,
            _buffer("distill"): torch.zeros_like(there) if distill is None else distill,
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


def deepkd_momenta(
    momentum: float = 0.9, delta: float = 0.075, *, as_released: bool = False
) -> dict[str, float]:
    r"""Return the momentum of each of DeepKD's three streams.

    For a parameter :math:`p` that all three losses reach, :class:`MultiMomentumSGD` with these momenta is

    .. math::
        v_{task} &\leftarrow (\mu + \Delta) \, v_{task} + g_{task} + \lambda p \\
        v_{target} &\leftarrow (\mu - \Delta) \, v_{target} + g_{target} \\
        v_{others} &\leftarrow (\mu + \Delta) \, v_{others} + g_{others} \\
        p &\leftarrow p - \gamma \, (v_{task} + v_{target} + v_{others})

    with :math:`\mu` = ``momentum`` and :math:`\Delta` = ``delta``; :math:`g_{task}` is the gradient of the
    task loss, :math:`g_{target}` that of the divergence between (label, not label) of the two models and
    :math:`g_{others}` that of the divergence among the other classes. The paper's reason: the first and the
    last have a high signal-to-noise ratio and gain from a long memory, the middle one has a low ratio.

    **The paper and its released code differ.** The code computes three momenta as the paper has them and
    then updates the task buffer with the one of the target class: with ``as_released`` the task momentum is
    :math:`\mu - \Delta`, on the side where DOT has it. The code also adds the weight decay to the target
    gradient; as both buffers then have one momentum, only their sum moves the parameter, and the sum is the
    same. The released recipes choose a :math:`\Delta` for each stream and pair of models, 0.075 or 0.1 for
    the target class and 0 to 0.085 for the others: :class:`MultiMomentumSGD` takes any three momenta.

    A parameter that one loss reaches alone has plain momentum if the optimizer is told: ``momentum=0.9``
    there, as below. (The released code takes the mean of its three momenta.)

    Args:
        momentum: Mean of the smaller and the larger momentum.
        delta: Half their distance; ``momentum - delta`` and ``momentum + delta`` must lie in [0, 1).
        as_released: Follow the released code, not the paper.

    Returns:
        ``{"task": ..., "target": ..., "others": ...}``, in this order: the task stream is the primary one.

    Raises:
        ValueError: A momentum lies outside [0, 1).

    Example:
        >>> {name: round(value, 3) for name, value in deepkd_momenta().items()}
        {'task': 0.975, 'target': 0.825, 'others': 0.975}
        >>> round(deepkd_momenta(as_released=True)["task"], 3)
        0.825
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> opt = MultiMomentumSGD([weight], lr=0.05, momenta=deepkd_momenta(), momentum=0.9)
        >>> opt.streams
        ('task', 'target', 'others')

    Reference:
        Huang, Song, Zhang and Ren, "DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation
        Trainer", NeurIPS 2025, arXiv 2505.15133, section 3.2, equation 7.
    """
    check_window("momentum", momentum, delta)
    short, long = momentum - delta, momentum + delta
    return {"task": short if as_released else long, "target": short, "others": long}


@cache
def _buffer(stream: str) -> str:
    """Return the state key of a stream's momentum buffer."""
    return f"{stream}_momentum_buffer"


def _check_fused(params: list[Tensor], grads: list[list[Tensor]], buffers: list[list[Tensor]]) -> None:
    """Refuse tensors that torch's fused kernels would update wrongly and without an error.

    They walk raw memory: parameter, gradients and buffers must share one dense layout, shape and dtype. On
    the CPU (torch 2.13) they are also wrong for bfloat16 and float16, from 16 elements on.

    Args:
        params: Parameters.
        grads: Their gradients by stream; torch sees to it that shape and dtype are the parameter's.
        buffers: Their momentum buffers by stream.

    Raises:
        RuntimeError: A fused kernel would.
    """
    shapes, dtypes = [p.shape for p in params], [p.dtype for p in params]
    if (
        all(all(map(Tensor.is_contiguous, column)) for column in (params, *grads, *buffers))
        and all([b.shape for b in column] == shapes for column in buffers)
        and all([b.dtype for b in column] == dtypes for column in buffers)
        and all(_has_fused(*kind) for kind in {(type(p), p.device.type, p.dtype) for p in params})
    ):
        return  # the common case, at the price of a few passes
    for i, param in enumerate(params):
        problem = _fused_problem(param, [column[i] for column in (*grads, *buffers)])
        if problem:
            raise RuntimeError(f"fused=True cannot update a parameter {problem}")


def _has_fused(kind: type, device: str, dtype: torch.dtype) -> bool:
    plain = kind in (Tensor, torch.nn.Parameter)
    return plain and (dtype in (torch.float32, torch.float64) if device == "cpu" else dtype.is_floating_point)


def _fused_problem(param: Tensor, others: Sequence[Tensor]) -> str:
    """Say why no fused kernel may touch these tensors; an empty string means that one may."""
    if type(param) not in (Tensor, torch.nn.Parameter):
        return f"of type {type(param).__name__}: only plain tensors"
    if not _has_fused(type(param), param.device.type, param.dtype):
        return f"of dtype {param.dtype} on {param.device.type!r}"
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(param.ndim, torch.contiguous_format)
    if not (param.is_contiguous() or param.is_contiguous(memory_format=last)):
        return f"with strides {param.stride()}: only contiguous or channels_last ones"
    if any(_layout(other) != _layout(param) for other in others):
        return f"with strides {param.stride()}: its gradients and buffers must have the same memory format"
    if any(other.dtype != param.dtype for other in others):
        return f"of dtype {param.dtype}: its gradients and buffers must have the same dtype"
    return ""


def _layout(tensor: Tensor) -> tuple[torch.Size, list[int]]:
    """Return the shape, and the strides of the dimensions larger than 1."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.shape, [stride for size, stride in steps if size > 1]
