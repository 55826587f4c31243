"""Momentum buffers that stay on their process: what is averaged is the update, not the gradients."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .gradients import Sets
from .streams import StreamOptimizer

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class LocalBuffers(StreamOptimizer):
    r"""Momentum SGD with a choice of what the processes average: all gradients, or the update.

    Every buffer :math:`v_s` is a weighted sum of past gradients, so the mean over processes of the buffers
    that each of them feeds with its own gradients is the buffer of the mean gradient. With
    ``local_buffers=True`` a process :math:`r` of :math:`R` keeps its own :math:`v_{s,r}`, and

    .. math::
        p \leftarrow p - \gamma \, \frac{1}{R} \sum_r \sum_s v_{s,r}

    is the update of the averaged gradients, to rounding. The message is one number for each number in the
    parameters, whatever the number of streams. Weight decay is the same everywhere, because p is, and
    enters the local buffers; gains, dampening, maximize, Nesterov's look-ahead and a held task gradient are
    linear too. The norm of the mean gradient, which clipping needs, is never known.

    Which losses reach a parameter decides its momenta, so the processes agree on that before any buffer
    moves, by a message of four bytes for each parameter and stream and for each stream (264 bytes for the
    32 parameters of ResNet-8x4, beside 4.9 MB). A process without a gradient where others have one lets its
    buffer decay as under a gradient of zero.

    The buffers differ between processes, and a checkpoint of one of them is worth nothing alone:
    :meth:`consolidate` gives all of them the mean, from which training goes on as it would have.
    """

    _apart = False  # whether the buffers of the processes may differ

    def _keep_local(self, local_buffers: bool, process_group: "ProcessGroup | None") -> None:
        """Take the option.

        Raises:
            ValueError: There are no processes.
        """
        if local_buffers and process_group is None:
            raise ValueError(
                "local_buffers=True needs a process_group: without one there is nothing to keep apart, "
                "leave it False"
            )
        self.local_buffers = local_buffers

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "local_buffers": self.local_buffers, "_apart": self._apart}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, the same one on every process; pending gradients are dropped.

        Raises:
            ValueError: The state is another optimizer's.
        """
        super().load_state_dict(state_dict)
        self._apart = False

    def state_dict(self) -> dict[str, Any]:
        """Return the state, which must be the same on all processes.

        Raises:
            RuntimeError: With local buffers, unless :meth:`consolidate` was called since the last step.
        """
        if self._apart:
            raise RuntimeError(
                "the buffers differ between the processes (local_buffers=True): call opt.consolidate() on "
                "all of them before state_dict()"
            )
        return super().state_dict()

    @torch.no_grad()
    def consolidate(self) -> None:
        """Give all processes the mean of their local buffers; call it on all of them, before saving.

        Training goes on from it as it would have without, to rounding. Nothing happens where the buffers
        are the same everywhere, with ``local_buffers=False`` say.
        """
        if self._apart and self.process_group is not None:
            from .distributed import mean

            states = [self.state[param] for param in self._params() if param in self.state]
            buffers = [state[key] for state in states for key in sorted(state)]
            buffers = [buffer for buffer in buffers if isinstance(buffer, Tensor)]
            for buffer, everywhere in zip(buffers, mean(buffers, self._group()), strict=True):
                buffer.copy_(everywhere)
        self._apart = False

    def _exchange(self, params: list[Tensor]) -> tuple[Sets, dict[str, float]]:
        if not self._local:
            return super()._exchange(params)
        from .distributed import agree

        if self._intake.scaled and self._intake.by_hand:
            # No mean carries an overflow of one process to the others.
            self._intake.find_overflow(params, self._any_rank)
        return agree(self._intake.all(params), self._votes(), params, self._group())

    def _targets(self, group: dict[str, Any], params: list[Tensor]) -> list[Tensor]:
        """Return what the buffers are added to: the parameters, or zeros that will be averaged."""
        if not self._local:
            return params
        zeros = [torch.zeros_like(param) for param in params]
        self._moves.append((group["lr"], params, zeros))
        return zeros

    def _carry_out(self, updates: list[Callable[[], None]]) -> None:
        self._moves: list[tuple[float | Tensor, list[Tensor], list[Tensor]]] = []
        super()._carry_out(updates)
        if not self._local:
            return
        from .distributed import mean

        self._apart = True
        moves, self._moves = self._moves, []
        means = iter(mean([move for _, _, of_group in moves for move in of_group], self._group()))
        for lr, params, _ in moves:
            steps = [next(means) for _ in params]
            torch._foreach_mul_(steps, lr.reshape(()) if isinstance(lr, Tensor) else lr)
            torch._foreach_sub_(params, steps)
