"""What every distillation method is: the outputs it sees, the loss it returns, its weights.

A method turns the outputs of a student and a teacher into one raw, unweighted scalar. Parts that
learn (projectors, memories) are its submodules; weighting and ramping are the distiller's work.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dotkd.losses.logit import check_non_negative

# What a method gets beside the two models' outputs and the target.
CONTEXT = frozenset({"index", "progress"})


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one model returned for one batch.

    Args:
        logits: ``[B, C]``.
        features: The tapped features by name; empty unless the method needs some.
    """

    logits: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)

    def in_float32(self) -> "Outputs":
        """The same outputs with float16 and bfloat16 tensors widened to float32.

        Returns:
            New outputs; wider tensors are passed on as they are.
        """
        features = {name: _widened(feature) for name, feature in self.features.items()}
        return Outputs(_widened(self.logits), features)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


class Method(nn.Module, ABC):
    """A way to distill: a loss between two models' outputs, with its weights and learned parts.

    The distiller hands two losses to the optimizer and never sums them::

        task    = task_weight * cross_entropy
        distill = distill_weight * ramp(progress) * method(student, teacher, target, ...)

    A subclass states ``needs`` and defines :meth:`forward`; with ``@register("name")`` above it,
    it can be created by name.

    Attributes:
        needs: What :meth:`forward` reads: ``"logits"``, names of features, or both. Every other
            name than ``"logits"`` is a feature, for which the distiller asks a tap.

    Args:
        task_weight: Weight of the task loss, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run, in [0, 1], over which the weight of the distillation loss rises
            linearly from zero; 0 for none.

    Raises:
        ValueError: If a weight is negative or ``warmup`` lies outside [0, 1].

    Example:
        >>> class MatchedBlock(Method):
        ...     needs = ("block",)
        ...
        ...     def __init__(self, *, channels: int, **weights: float):
        ...         super().__init__(**weights)
        ...         self.project = nn.Linear(channels, channels)
        ...
        ...     def forward(self, student, teacher, target, *, index, progress):
        ...         block = self.project(student.features["block"])
        ...         return nn.functional.mse_loss(block, teacher.features["block"])
        >>> MatchedBlock(channels=8, distill_weight=2.0, warmup=0.5).ramp(0.25)
        0.5
    """

    needs: tuple[str, ...] = ("logits",)

    def __init__(self, *, task_weight: float = 1.0, distill_weight: float = 1.0, warmup: float = 0.0) -> None:
        super().__init__()
        check_non_negative("task_weight", task_weight)
        check_non_negative("distill_weight", distill_weight)
        if not (math.isfinite(warmup) and 0 <= warmup <= 1):
            raise ValueError(f"warmup must be a share of the run in [0, 1], got {warmup}")
        self.task_weight = task_weight
        self.distill_weight = distill_weight
        self.warmup = warmup

    @abstractmethod
    def forward(
        self,
        student: Outputs,
        teacher: Outputs,
        target: Tensor,
        *,
        index: Tensor | None,
        progress: float,
    ) -> Tensor:
        """The raw distillation loss of one batch.

        Args:
            student: The student's outputs, attached to its graph.
            teacher: The teacher's outputs, without a graph.
            target: ``[B]`` int64 class numbers.
            index: ``[B]`` int64 numbers of the samples in their data set, or None if the loop does
                not know them; a method that cannot do without must say so.
            progress: How much of the run is over, in [0, 1].

        Returns:
            A scalar, unweighted and not ramped.
        """

    def ramp(self, progress: float) -> float:
        """The factor of the distillation weight at this point of the run.

        Args:
            progress: How much of the run is over, in [0, 1].

        Returns:
            ``progress / warmup``, at most 1; always 1 without warm-up.
        """
        return min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0

    def deployable(self, student: nn.Module) -> nn.Module:
        """The module to ship after training.

        Args:
            student: The trained student.

        Returns:
            The student itself, unless the method trains parts that inference needs.
        """
        return student

    def extra_repr(self) -> str:
        """The weights, for ``repr``.

        Returns:
            One line.
        """
        return (
            f"task_weight={self.task_weight:g}, distill_weight={self.distill_weight:g}, "
            f"warmup={self.warmup:g}"
        )


class FunctionMethod(Method):
    """A method made of one plain function.

    Args:
        function: ``function(student, teacher, target) -> scalar``, with :class:`Outputs` as in
            :meth:`Method.forward`. If it has arguments ``index`` or ``progress``, these are passed
            too. Bind options of its own with ``functools.partial``.
        needs: What the function reads, see :class:`Method`.
        task_weight: As in :class:`Method`.
        distill_weight: As in :class:`Method`.
        warmup: As in :class:`Method`.

    Raises:
        ValueError: If a weight is negative or ``warmup`` lies outside [0, 1].

    Example:
        >>> def logit_mse(student, teacher, target):
        ...     return nn.functional.mse_loss(student.logits, teacher.logits)
        >>> FunctionMethod(logit_mse, distill_weight=0.5)
        FunctionMethod(logit_mse, task_weight=1, distill_weight=0.5, warmup=0)
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        *,
        needs: tuple[str, ...] = ("logits",),
        task_weight: float = 1.0,
        distill_weight: float = 1.0,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)
        self.function = function
        self.needs = needs
        self._wants = CONTEXT & inspect.signature(function).parameters.keys()

    def forward(
        self,
        student: Outputs,
        teacher: Outputs,
        target: Tensor,
        *,
        index: Tensor | None,
        progress: float,
    ) -> Tensor:
        """Call the function, see :meth:`Method.forward`.

        Returns:
            The function's value.
        """
        context = {"index": index, "progress": progress}
        wanted = {name: context[name] for name in sorted(self._wants)}
        return self.function(student, teacher, target, **wanted)

    def extra_repr(self) -> str:
        """The function's name and the weights, for ``repr``.

        Returns:
            One line.
        """
        inner = getattr(self.function, "func", self.function)
        return f"{getattr(inner, '__name__', type(inner).__name__)}, {super().extra_repr()}"
