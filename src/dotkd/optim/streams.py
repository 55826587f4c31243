"""The base of the optimizers here: several losses, a gradient set for each, one update.

A *stream* is a named loss with its gradients and its momentum. This file says what happens to the
gradients between the backward passes and the update: who holds them, when they are dropped, clipped,
averaged over processes or found missing. What a step does with them is each optimizer's own
(:meth:`StreamOptimizer._plan`).
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .checks import check_group_keys, check_lr, nearest
from .clipping import ClipMode, clip
from .gradients import Sets, present
from .intake import Intake
from .states import Portable

if TYPE_CHECKING:
    from torch.amp import GradScaler
    from torch.distributed import ProcessGroup


class StreamOptimizer(Portable):
    """An optimizer that keeps the gradients of several losses apart.

    Subclasses name the streams and update the parameters of a group; everything else is here.

    Args:
        params: Parameters or parameter groups.
        defaults: Default values of the group keys.
        process_group: Processes over which :meth:`synchronize` averages the gradients, or None.
    """

    local_buffers: bool = False
    _agreed: dict[str, float] | None  # the votes of all processes on the gradients as they are, if asked

    def __init__(
        self, params: ParamsT, defaults: dict[str, Any], process_group: "ProcessGroup | None" = None
    ) -> None:
        self.process_group = process_group
        super().__init__(params, defaults)
        self._start()

    @property
    @abstractmethod
    def streams(self) -> tuple[str, ...]:
        """The names of the streams; the gradients of the first one are in ``.grad``."""

    @abstractmethod
    def _momenta(self, group: dict[str, Any]) -> dict[str, float]:
        """Return the momentum of each stream, for parameters that several streams reach."""

    @abstractmethod
    def _check_group(self, group: dict[str, Any], hint: str = "") -> None:
        """Raise ValueError unless the values of a group are valid; ``hint`` ends the sentence."""

    @abstractmethod
    def _plan(self, group: dict[str, Any], sets: Sets) -> list[Callable[[], None]]:
        """Return the updates of one group from its gradients in all streams; raise what must be raised."""

    def momenta(self, group: dict[str, Any] | None = None) -> dict[str, float]:
        """Return the momentum of each stream, where several losses reach a parameter.

        Args:
            group: One of ``param_groups``; None for the first.

        Returns:
            Stream -> momentum, in the order of :attr:`streams`.
        """
        return dict(self._momenta(self.param_groups[0] if group is None else group))

    # ---------------------------------------------------------------- construction

    def _start(self) -> None:
        self._intake = Intake(self.streams, self._capture_call)
        self._agreed = None

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
        if self.process_group is not None:
            from .distributed import check_replicated

            try:
                check_replicated(self.param_groups[-1]["params"])
            except ValueError:
                self.param_groups.pop()
                raise

    # ---------------------------------------------------------------- gradients in

    def backward(self, *, scaler: "GradScaler | None" = None, **losses: Tensor | None) -> None:
        """Compute the gradients of all losses and keep them apart.

        Runs one ``.backward()`` per loss, the first stream's last, and adds to what earlier calls since
        the last ``step()`` left. Afterwards ``.grad`` holds the gradient of the first stream.

        Args:
            scaler: The GradScaler of a half-precision run, not yet applied to the losses.
            **losses: One scalar loss for each stream; None says that the stream is absent on purpose.

        Raises:
            ValueError: A loss is missing, unknown, not a scalar or without a graph; or all are None.
            TypeError: A loss is neither a tensor nor None.
            RuntimeError: ``.grad`` still holds what the last ``step()`` used.
        """
        self._agreed = None
        self._intake.backward(self._params(), losses, scaler, self._any_rank, one_pass=self._one_pass())

    def capture(self, stream: str, *, scaler: "GradScaler | None" = None) -> None:
        """Take the gradients in ``.grad``, which a backward pass of your own left there, into a stream.

        Capture every stream but the first, each after its own backward pass; the first one's comes last
        and stays in ``.grad``. Between micro-batches, capturing the first stream too makes room for the
        next backward pass. Whose gradient it is cannot be seen: a mistake is noticed where a stream is
        captured twice before the first one.

        Args:
            stream: Name of the stream.
            scaler: The GradScaler that scaled the loss, if one did; not needed for the first stream.

        Raises:
            ValueError: Unknown stream.
            RuntimeError: ``.grad`` may hold the first stream's gradient, or what the last ``step()`` used.
        """
        if stream not in self.streams:
            raise ValueError(
                f"unknown stream {stream!r}{nearest(stream, self.streams)}: one of {self.streams}"
            )
        self._agreed = None
        self._intake.capture(self._params(), stream, scaler, self._any_rank)

    @staticmethod  # nothing of the optimizer: a cycle would keep its buffers alive after it
    def _capture_call(stream: str) -> str:
        """Return how a user spells the capture of a stream."""
        return f"capture({stream!r})"

    # ---------------------------------------------------------------- between backward and step

    def gradients(self) -> Iterator[tuple[Tensor | None, ...]]:
        """Yield each parameter with its gradient in every stream, before ``step()``.

        Yields:
            ``(parameter, gradient, gradient, ...)`` in the order of :attr:`streams`; None where a loss
            did not reach the parameter. With a GradScaler the first stream's are scaled until
            ``scaler.unscale_(opt)``. The tensors are the optimizer's own: read them, do not write.
        """
        params = self._params()
        yield from zip(params, *self._sets(params).values(), strict=True)

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
            RuntimeError: With ``local_buffers``, which never averages the gradients.
        """
        if self._local:
            raise RuntimeError(
                "clip_grad_norm_ needs the norm of the averaged gradients, which local_buffers=True never "
                "computes: leave it False to clip"
            )
        self._refuse_hidden()
        self._synchronize(asked=False)
        params = self._params()
        sets, norms = clip(
            self._final_sets(params),
            max_norm,
            mode,
            norm_type=norm_type,
            error_if_nonfinite=error_if_nonfinite,
        )
        self._intake.replace(params, sets)
        return norms

    def synchronize(self) -> None:
        """Average all gradient sets over ``process_group``; once per step, and nothing without a group.

        ``clip_grad_norm_`` and ``step`` call it. Call it yourself before ``scaler.step(opt)`` where your
        own backward passes and :meth:`capture` meet a GradScaler, so that all processes skip or none.
        """
        self._synchronize(asked=True)

    def _synchronize(self, *, asked: bool) -> None:
        if self.process_group is None or self._agreed is not None:
            return
        if not asked and self._intake.scaled and self._intake.by_hand:
            raise RuntimeError(
                "with a GradScaler and several processes call opt.synchronize() before scaler.unscale_(opt) "
                "or scaler.step(opt): a task gradient that overflows on one process must stop all of them"
            )
        params = self._params()
        sets, self._agreed = self._exchange(params)
        self._intake.replace(params, sets)
        self._intake.consents = {name for name in self.streams if self._agreed[name]}

    def _exchange(self, params: list[Tensor]) -> tuple[Sets, dict[str, float]]:
        """Return the sets on which all processes agree, and the share of them that says yes to each vote."""
        from .distributed import average

        return average(self._intake.all(params), self._votes(), params, self._group())

    def _votes(self) -> dict[str, bool]:
        """Return this process's votes: whether each stream is absent on purpose."""
        return {name: name in self._intake.consents for name in self.streams}

    def _any_rank(self, flag: Tensor) -> Tensor:
        if self.process_group is None:
            return flag
        from .distributed import any_rank

        return any_rank(flag, self._group())

    @property
    def _local(self) -> bool:
        """Whether the gradients of this process stay its own."""
        return self.local_buffers and self.process_group is not None

    def _group(self) -> "ProcessGroup":
        if isinstance(self.process_group, str) or self.process_group is None:
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
            What the closure returned, or None.

        Raises:
            RuntimeError: Some stream has no gradient at all, and nobody said that this is meant.
            ValueError: A scheduler wrote a value that is out of range.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._check_group(group, hint=self._schedule_hint())
            if not isinstance(group["lr"], Tensor):  # a tensor's value may be on the device: not waited for
                check_lr(group["lr"])
        params, primary = self._params(), self.streams[0]
        self._refuse_hidden()
        self._synchronize(asked=False)
        sets = self._final_sets(params)
        if self._complete(params, sets):
            # All groups are planned before any is moved: an error leaves every parameter as it was.
            updates: list[Callable[[], None]] = []
            start = 0
            for group in self.param_groups:
                end = start + len(group["params"])
                updates += self._plan(group, {name: grads[start:end] for name, grads in sets.items()})
                start = end
            self._carry_out(updates)
            self._after_update(params, sets)
        self._intake.end(sets[primary], params)
        self._agreed = None
        return loss

    # What LazyTask and LocalBuffers do otherwise.

    def _one_pass(self) -> bool:
        """Say whether this step may do with one backward pass for all losses."""
        return False

    def _sets(self, params: list[Tensor]) -> Sets:
        """Return the gradients of all streams; nothing is moved."""
        return self._intake.all(params)

    def _final_sets(self, params: list[Tensor]) -> Sets:
        """Return the gradients of all streams, synchronized, for clipping or the update."""
        return self._intake.all(params)

    def _carry_out(self, updates: list[Callable[[], None]]) -> None:
        for update in updates:
            update()

    def _after_update(self, params: list[Tensor], sets: Sets) -> None:
        """Remember of the gradients what later steps need."""

    def _refuse_hidden(self) -> None:
        primary = self.streams[0]
        if self._intake.scaled and self._intake.kept[primary]:
            raise RuntimeError(
                f"{self._capture_call(primary)} after the last micro-batch hides the {primary} gradient from "
                "the GradScaler: leave the last one in .grad"
            )

    def _schedule_hint(self) -> str:
        """Return what to say of a value that was valid once and has been overwritten."""
        return ""

    def _complete(self, params: list[Tensor], sets: Sets) -> bool:
        """Say whether there is something to update; raise if a stream is missing that nobody gave up."""
        reached = [name for name in self.streams if present(sets[name])]
        missing = [name for name in self.streams if name not in (*reached, *self._intake.consents)]
        if not reached or not missing:
            return bool(reached)
        if all(float(group["lr"]) == 0.0 for group in self.param_groups):
            # torch.distributed.checkpoint asks for the state so: zero gradients in .grad, lr 0.
            for name in reached:
                for param, grad in zip(params, sets[name], strict=True):
                    if grad is not None:
                        self._init_state(param)
            return False
        raise RuntimeError(self._missing_text(reached[0], missing[0]))

    def _missing_text(self, reached: str, missing: str) -> str:
        return (
            f"step() has {reached} gradients but no {missing} gradient: call opt.backward(...) with a loss "
            f"for each stream, or {self._capture_call(missing)} after a backward pass of your own. To leave "
            f"the stream out of a step, say opt.backward(..., {missing}=None)"
        )

    def _init_state(self, param: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[param]
        if not state:
            state.update(self._new_state(param))
        return state

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all streams.

        Call this one rather than ``model.zero_grad()``, which knows ``.grad`` alone: where that is empty
        anyway, after ``backward(..., task=None)`` say, it drops nothing.

        Args:
            set_to_none: Set ``.grad`` to None; otherwise fill it with zeros, which count as no gradient
                until a backward pass writes to them.
        """
        self._intake.drop()
        self._agreed = None
        super().zero_grad(set_to_none)
        if not set_to_none:
            self._intake.mark_zeroed(self._params())
