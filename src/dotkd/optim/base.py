"""The base of the optimizers: several losses, a gradient set for each, one update.

A *stream* is a named loss with its gradients and its momentum. This file has everything that an optimizer of
several streams needs but its arithmetic: the calls of a step in their order, clipping, averaging over
processes, parameter groups, states and copies. How gradients are kept until the step is in ``gradients.py``.
"""

import copy
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from ._checks import CYCLED, check_group_keys, check_losses, check_lr, check_state_dict, nearest
from .gradients import ClipMode, GradientSets, Phase, Sets, clip, present

if TYPE_CHECKING:
    from torch.amp import GradScaler
    from torch.distributed import ProcessGroup

_LOST = "lost"  # in the place of a process group that could not be pickled
_CACHED = 2**18  # numbers that stay in a CPU's cache: best of 2**15 to 2**19 on the one it was tried on


class Batch(NamedTuple):
    """Parameters that one update serves: of one group, with gradients in the same streams, of one age."""

    group: dict[str, Any]
    params: list[Tensor]
    grads: dict[str, list[Tensor]]
    states: list[dict[str, Any]]


class StreamOptimizer(Optimizer):
    """An optimizer that keeps the gradients of several losses apart.

    Subclasses check the values of a group and update a batch of parameters; everything else is here.

    Args:
        params: Parameters or parameter groups.
        defaults: Default values of the group keys.
        streams: Names of the streams; the gradients of the first one are in ``.grad``.
        process_group: Processes over which :meth:`synchronize` averages the gradients of plain parameters;
            None for a single process and under FSDP, False for independent processes.
    """

    param_groups: list[dict[str, Any]]
    process_group: "ProcessGroup | Literal[False] | str | None"
    _known_by: tuple[str, ...]  # group keys by which a state of this class is told from others

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        streams: Sequence[str],
        process_group: "ProcessGroup | Literal[False] | None" = None,
    ) -> None:
        self.process_group = process_group
        self._streams = tuple(streams)
        self._sets = GradientSets(self._streams, self._spell)
        super().__init__(params, defaults)

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of the streams; the gradients of the first one are in ``.grad``."""
        return self._streams

    @abstractmethod
    def momenta(self, group: dict[str, Any] | None = None) -> dict[str, float]:
        """Return the momentum of each stream for parameters that several losses reach.

        Args:
            group: A parameter group; None for the first one.

        Returns:
            Stream -> momentum; of an Adam, the first beta.
        """

    # ---------------------------------------------------------------- for subclasses

    @abstractmethod
    def _check_group(self, group: dict[str, Any], hint: str = "") -> None:
        """Raise ValueError unless the values of a group are valid; ``hint`` ends the message."""

    @abstractmethod
    def _new_state(self, param: Tensor) -> dict[str, Any]:
        """Return the state of a parameter before its first update."""

    @abstractmethod
    def _age(self, state: dict[str, Any]) -> Hashable:
        """Return what must be equal in the states of parameters that are updated together."""

    @abstractmethod
    def _update(self, batch: Batch) -> None:
        """Update parameters and their state."""

    @staticmethod  # of no instance: a cycle would keep the buffers alive after the optimizer
    def _spell(stream: str) -> str:
        """Return how a user spells the capture of a stream."""
        return f"capture({stream!r})"

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with hyper-parameters of its own where it names them.

        Raises:
            ValueError: A value is out of range, or a key is one slip away from a known one.
        """
        if isinstance(param_group, dict):
            check_group_keys(param_group, self.defaults)
            merged = {**self.defaults, **param_group}
            check_lr(merged["lr"])
            self._check_group(merged)
            for key, value in merged.items():
                if isinstance(value, dict):
                    param_group[key] = dict(value)  # each group its own, to be scheduled alone
        super().add_param_group(param_group)

    # ---------------------------------------------------------------- gradients in

    def backward(self, *, scaler: "GradScaler | None" = None, **losses: Tensor | None) -> None:
        """Compute the gradients of all losses and keep them apart.

        Runs one ``.backward()`` per loss, the first stream's last, and adds to what earlier calls since
        the last ``step()`` left. Afterwards ``.grad`` holds the gradient of the first stream. If a pass
        fails, all gradients are as before the call.

        Args:
            scaler: The GradScaler of a half-precision run, not yet applied to the losses.
            **losses: One scalar loss for each stream; None says that the stream is absent on purpose.

        Raises:
            ValueError: A loss is missing, unknown, not a scalar or without a graph; or all are None.
            TypeError: A loss is neither a tensor nor None.
            RuntimeError: ``.grad`` still holds what the last ``step()`` used, or was edited.
        """
        given = check_losses(losses, self._streams)
        self._sets.backward(self._params(), given, _active(scaler), self._any_rank)

    def capture(self, stream: str, *, scaler: "GradScaler | None" = None) -> None:
        """Take the gradients in ``.grad``, which a backward pass of your own left there, into a stream.

        Capture every stream but the first, each after its own backward pass; the first one's comes last
        and stays in ``.grad``. Between micro-batches, capturing the first stream too makes room for the
        next backward pass. Which loss a gradient belongs to cannot be seen: a mistake is noticed where a
        stream is captured twice before the first one.

        Args:
            stream: Name of the stream.
            scaler: The GradScaler that scaled the loss, if one did; not needed for the first stream.

        Raises:
            ValueError: Unknown stream.
            RuntimeError: ``.grad`` may hold the first stream's gradient, or what the last ``step()`` used.
        """
        if stream not in self._streams:
            raise ValueError(
                f"unknown stream {stream!r}{nearest(stream, self._streams)}: one of {self._streams}"
            )
        self._sets.capture(self._params(), stream, _active(scaler), self._any_rank)

    # ---------------------------------------------------------------- between backward and step

    def gradients(self) -> Iterator[tuple[Tensor | None, ...]]:
        """Return each parameter with its gradient in every stream, before ``step()``.

        The call hands the sets over: edit the gradients in place as you like, all sets alike, and
        ``step()`` uses them so. (Otherwise ``step()`` refuses a ``.grad`` that somebody has edited.)

        Returns:
            An iterator of ``(parameter, gradient, gradient, ...)`` in the order of :attr:`streams`; None
            where a loss did not reach the parameter. With a GradScaler the first stream's are scaled until
            ``scaler.unscale_(opt)``.

        Raises:
            RuntimeError: ``.grad`` was edited before this call.
        """
        params = self._params()
        self._sets.look(params)
        self._sets.handed_over = self._sets.phase in (Phase.COLLECTING, Phase.READY)
        return zip(params, *self._sets.all(params).values(), strict=True)

    def clip_grad_norm_(
        self,
        max_norm: float,
        mode: ClipMode = "joint",
        *,
        norm_type: float = 2.0,
        error_if_nonfinite: bool = False,
    ) -> dict[str, Tensor]:
        """Clip all gradient sets, averaged over the processes first.

        ``"joint"`` takes the norm of the summed gradient and scales all sets by one factor, so that equal
        momenta stay plain SGD under clipping; ``"each"`` clips each set by its own norm. Gradients are
        replaced, not edited. With a GradScaler, call ``scaler.unscale_(opt)`` before.

        Args:
            max_norm: Largest norm, >= 0; infinity only measures.
            mode: ``"joint"`` or ``"each"``.
            norm_type: Order of the norm.
            error_if_nonfinite: Raise if a norm is not finite.

        Returns:
            The norms before clipping, scalar tensors: ``{"joint": norm}``, or one for each stream.

        Raises:
            RuntimeError: ``.grad`` was edited since the backward passes.
        """
        params = self._params()
        self._synchronize(params, asked=False)
        sets, norms = clip(
            self._sets.all(params),
            max_norm,
            mode,
            norm_type=norm_type,
            error_if_nonfinite=error_if_nonfinite,
        )
        self._sets.replace(params, sets)
        return norms

    def synchronize(self) -> None:
        """Average all gradient sets over ``process_group``; once per step, and nothing without a group.

        ``clip_grad_norm_`` and ``step`` call it. Call it yourself before ``scaler.step(opt)`` where your
        own backward passes and :meth:`capture` meet a GradScaler, so that all processes skip or none.
        """
        self._synchronize(self._params(), asked=True)

    def _synchronize(self, params: list[Tensor], *, asked: bool) -> None:
        """See that nobody has edited the sets, and make them those of the update."""
        sets = self._sets
        sets.look(params)
        if sets.scaled and not asked and sets.kept[sets.primary]:
            raise RuntimeError(
                f"{self._spell(sets.primary)} after the last micro-batch hides the {sets.primary} gradient "
                "from the GradScaler: leave the last one in .grad"
            )
        if not self.process_group or sets.phase is Phase.READY:
            return
        if sets.scaled and not asked and sets.hooks:
            raise RuntimeError(
                "with a GradScaler and several processes call opt.synchronize() before scaler.unscale_(opt) "
                "or scaler.step(opt): a task gradient that overflows on one process must stop all of them"
            )
        from .distributed import average

        votes = {name: name in sets.absent for name in self._streams}
        averaged, agreed = average(sets.all(params), votes, params, self._group())
        sets.replace(params, averaged)
        sets.absent = frozenset(name for name in self._streams if agreed[name])
        sets.phase = Phase.READY

    def _any_rank(self, flag: Tensor) -> Tensor:
        if not self.process_group:
            return flag
        from .distributed import any_rank

        return any_rank(flag, self._group())

    def _group(self) -> "ProcessGroup":
        if isinstance(self.process_group, str) or not self.process_group:
            raise RuntimeError(
                "this optimizer was pickled, and a process group cannot be: set opt.process_group again "
                "(None for a single process)"
            )
        return self.process_group

    # ---------------------------------------------------------------- step

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters from all gradient sets.

        Args:
            closure: Recomputes the losses, calls ``zero_grad`` and ``backward``, returns the loss.

        Returns:
            The value of the closure, or None.

        Raises:
            RuntimeError: Some stream has no gradient, and no ``backward`` call said that this is meant;
                ``.grad`` was edited by somebody else; or several processes run without a
                ``process_group``.
            ValueError: A scheduler wrote a value that is out of range.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._check_group(group, hint=CYCLED)
            if not isinstance(group["lr"], Tensor):  # a tensor's value may be on the device: not waited for
                check_lr(group["lr"])
        params = self._params()
        if self.process_group is None and _several_processes():
            from .distributed import require_group

            require_group(params)
        self._synchronize(params, asked=False)
        sets = self._sets.all(params)
        reached = [name for name, grads in sets.items() if any(grad is not None for grad in grads)]
        if reached and self._complete(params, sets, reached):
            # All groups are planned before any is moved: an error leaves every parameter as it was.
            batches: list[Batch] = []
            start = 0
            for group in self.param_groups:
                end = start + len(group["params"])
                batches += self._init_group(group, {name: grads[start:end] for name, grads in sets.items()})
                start = end
            for batch in batches:
                for param, state in zip(batch.params, batch.states, strict=True):
                    if not state:  # made for this step
                        self.state[param] = state
                self._update(batch)
        if reached or self._sets.phase is not Phase.EMPTY:
            self._sets.end(params)
        return loss

    def _init_group(self, group: dict[str, Any], sets: Sets) -> list[Batch]:
        """Gather the parameters of a group that have gradients, in as few batches as possible."""
        params = group["params"]
        columns = [[grad is not None for grad in grads] for grads in sets.values()]
        states: list[dict[str, Any]] = [self.state.get(param, {}) for param in params]
        rows_of: dict[tuple[type, tuple[bool, ...], Hashable], list[int]] = {}
        for i, (param, state, *reach) in enumerate(zip(params, states, *columns, strict=True)):
            if True in reach:
                rows_of.setdefault((type(param), tuple(reach), self._age(state)), []).append(i)
        batches = []
        for (_, reach_of_all, _), rows in rows_of.items():
            names = [name for name, reached in zip(sets, reach_of_all, strict=True) if reached]
            for run in _runs(params, rows):
                grads_of = {name: [g for i in run if (g := sets[name][i]) is not None] for name in names}
                batches.append(Batch(group, [params[i] for i in run], grads_of, [states[i] for i in run]))
        return batches

    def _complete(self, params: list[Tensor], sets: Sets, reached: list[str]) -> bool:
        """Say whether there is an update to make; raise if a stream is missing that nobody gave up."""
        missing = [name for name in sets if name not in reached and name not in self._sets.absent]
        if not missing:
            return True
        if any(float(group["lr"]) != 0.0 for group in self.param_groups):
            raise RuntimeError(self._missing(reached[0], missing[0]))
        # torch.distributed.checkpoint asks for the state so: zero gradients in .grad, lr 0.
        for param, *grads in zip(params, *sets.values(), strict=True):
            if present(grads):
                self._init_state(param, self.state[param])
        return False

    def _missing(self, reached: str, missing: str) -> str:
        """Return the message about a stream without gradients."""
        return (
            f"step() has {reached} gradients but no {missing} gradient: call opt.backward(...) with a loss "
            f"for each stream, or {self._spell(missing)} after a backward pass of your own. To leave "
            f"the stream out of a step, say opt.backward(..., {missing}=None)"
        )

    def _init_state(self, param: Tensor, state: dict[str, Any]) -> None:
        """Give a state all keys of ours that it lacks; a wrapper may have further ones."""
        for key, value in self._new_state(param).items():
            state.setdefault(key, value)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all streams.

        Args:
            set_to_none: Set ``.grad`` to None; otherwise fill it with zeros, which count as no gradient
                until a backward pass writes to them.
        """
        self._sets.clear()
        super().zero_grad(set_to_none)
        if not set_to_none:
            self._sets.mark_zeroed(self._params())

    # ---------------------------------------------------------------- states and copies

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state that :meth:`state_dict` of the same class returned.

        Pending gradients are dropped, those in ``.grad`` too. A group key that the state lacks keeps this
        optimizer's value.

        Raises:
            ValueError: The state is another optimizer's, or another model's.
        """
        keys = tuple(self._new_state(torch.empty(0)))
        check_state_dict(
            state_dict,
            type(self).__name__,
            self._params(),
            streams=self._streams,
            group_keys=self._known_by,
            state_keys=keys,
        )
        groups = [
            {**{key: value for key, value in own.items() if key in self.defaults}, **group}
            for own, group in zip(self.param_groups, state_dict["param_groups"], strict=False)
        ]
        if len(groups) == len(state_dict["param_groups"]):
            state_dict = {**state_dict, "param_groups": groups}
        super().load_state_dict(state_dict)
        for param in self._params():
            for key in keys:
                value = self.state.get(param, {}).get(key)
                if isinstance(value, Tensor) and value.stride() != param.stride():
                    # The fused kernels need the parameter's own layout, channels_last say.
                    self.state[param][key] = torch.empty_like(param).copy_(value)
        self.zero_grad()

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "process_group": _LOST if self.process_group else self.process_group,
            "_streams": self._streams,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch adds it here; it is no option of ours
        if "_sets" not in vars(self):
            self._sets = GradientSets(self._streams, self._spell)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        clone = self.__class__.__new__(self.__class__)
        memo[id(self)] = clone
        clone.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        clone.process_group = self.process_group
        return clone


class TaskAndDistill:
    """The calls of an optimizer whose two streams are the task loss and the distillation loss."""

    def backward(
        self, *, task: Tensor | None, distill: Tensor | None, scaler: "GradScaler | None" = None
    ) -> None:
        """Compute both gradients and keep them apart: two backward passes through one graph.

        Accumulates until ``step()``: call it once for each micro-batch. Afterwards ``.grad`` holds the
        task gradient and the optimizer the distillation gradient. If a pass fails, all gradients are as
        before the call. A student under ``torch.compile`` needs
        ``torch._functorch.config.donated_buffer = False``, as every graph that two passes go through.

        Args:
            task: Scalar task loss, weighted as it should count. None: absent on purpose in this step.
            distill: Scalar distillation loss, likewise.
            scaler: The GradScaler of a half-precision run, not yet applied to the losses. Its
                ``step(opt)`` then skips where either gradient is not finite, on any process.

        Raises:
            ValueError: A loss is not a scalar or has no graph, or both are None.
            TypeError: A loss is neither a tensor nor None.
            RuntimeError: ``.grad`` still holds what the last ``step()`` used, or was edited.

        Example:
            >>> import torch
            >>> from dotkd.optim import DOT
            >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
            >>> opt = DOT([weight], lr=0.1)
            >>> opt.backward(task=2 * weight.sum(), distill=3 * weight.sum())
            >>> [(task.item(), distill.item()) for _, task, distill in opt.gradients()]
            [(2.0, 3.0)]
        """
        super().backward(task=task, distill=distill, scaler=scaler)  # type: ignore[misc]

    def capture_distill(self, *, scaler: "GradScaler | None" = None) -> None:
        """Take what ``distill.backward(retain_graph=True)`` left in ``.grad`` as the distillation gradient.

        For frameworks that own the backward call; ``task.backward()`` comes after it.

        Args:
            scaler: The GradScaler that scaled the distillation loss, if one did.

        Raises:
            RuntimeError: ``.grad`` may hold a task gradient (:meth:`capture_task` makes room between
                micro-batches), or what the last ``step()`` used.

        Example:
            >>> import torch
            >>> from dotkd.optim import DOT
            >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
            >>> opt = DOT([weight], lr=0.1)
            >>> (3 * weight.sum()).backward()
            >>> opt.capture_distill()
            >>> (2 * weight.sum()).backward()
            >>> opt.step()
            >>> weight
            Parameter containing:
            tensor([0.5000], requires_grad=True)
        """
        self.capture("distill", scaler=scaler)  # type: ignore[attr-defined]

    def capture_task(self) -> None:
        """Put the task gradient in ``.grad`` aside, to make room for the next micro-batch."""
        self.capture("task")  # type: ignore[attr-defined]

    @staticmethod
    def _spell(stream: str) -> str:
        return f"capture_{stream}()"

    def _missing(self, reached: str, missing: str) -> str:
        how = {
            "distill": "after your own distill.backward(retain_graph=True), opt.capture_distill() before "
            "task.backward()",
            "task": "after opt.capture_distill(), task.backward()",
        }
        names = {"task": "task", "distill": "distillation"}
        return (
            f"step() has {names[reached]} gradients but no {names[missing]} gradient: call "
            f"opt.backward(task=..., distill=...) or, {how[missing]}. To leave it out of a step, say "
            f"opt.backward({reached}=..., {missing}=None)"
        )


def _active(scaler: "GradScaler | None") -> "GradScaler | None":
    """Return the scaler, or None where it is switched off (``GradScaler(enabled=False)``)."""
    return scaler if scaler is not None and scaler.is_enabled() else None


def _several_processes() -> bool:
    dist = torch.distributed
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _runs(params: Sequence[Tensor], rows: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut rows of parameters into runs that stay in a CPU's cache from one stream to the next."""
    run: list[int] = []
    size = 0
    for row in rows:
        numel = params[row].numel()
        if run and size + numel > _CACHED and params[row].is_cpu:
            yield run
            run, size = [], 0
        run.append(row)
        size += numel
    yield run
