"""The two streams of distillation, ``task`` and ``distill``, and the calls that name them."""

from typing import TYPE_CHECKING

from torch import Tensor

from .streams import StreamOptimizer

if TYPE_CHECKING:
    from torch.amp import GradScaler


class TaskAndDistill(StreamOptimizer):
    """An optimizer of two streams: the task loss, whose gradient is ``.grad``, and the distillation loss."""

    @property
    def streams(self) -> tuple[str, ...]:
        """``("task", "distill")``."""
        return ("task", "distill")

    def backward(  # type: ignore[override]  # the two names are required here, not any names
        self, *, task: Tensor | None, distill: Tensor | None, scaler: "GradScaler | None" = None
    ) -> None:
        """Compute both gradients and keep them apart: two backward passes through one graph.

        Accumulates until ``step()``: call it once for each micro-batch. Afterwards ``.grad`` holds the
        task gradient and the optimizer the distillation gradient. If a pass fails, all gradients are as
        before the call. A student under ``torch.compile`` needs
        ``torch._functorch.config.donated_buffer = False``, as every graph that two passes go through.

        With ``task_every > 1``, where an optimizer has that, most steps run one backward pass for both
        losses; then ``.grad`` stays empty until clipping or ``step()`` divides what came out.

        Args:
            task: Scalar task loss, weighted as it should count. None: absent on purpose in this step.
            distill: Scalar distillation loss, likewise.
            scaler: The GradScaler of a half-precision run, not yet applied to the losses. Its
                ``step(opt)`` then skips where either gradient is not finite, on any process.

        Raises:
            ValueError: A loss is not a scalar or has no graph, or both are None.
            TypeError: A loss is neither a tensor nor None.
            RuntimeError: ``.grad`` still holds what the last ``step()`` used.

        Example:
            >>> import torch
            >>> from dotkd.optim import DOT
            >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
            >>> opt = DOT([weight], lr=0.1)
            >>> opt.backward(task=2 * weight.sum(), distill=3 * weight.sum())
            >>> [(task.item(), distill.item()) for _, task, distill in opt.gradients()]
            [(2.0, 3.0)]
        """
        super().backward(task=task, distill=distill, scaler=scaler)

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
        self.capture("distill", scaler=scaler)

    def capture_task(self) -> None:
        """Put the task gradient in ``.grad`` aside, to make room for the next micro-batch."""
        self.capture("task")

    @staticmethod
    def _capture_call(stream: str) -> str:
        return f"capture_{stream}()"

    def _missing_text(self, reached: str, missing: str) -> str:
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
