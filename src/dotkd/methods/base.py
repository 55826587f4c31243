"""What every distillation method is: the outputs it sees, the loss it returns, its weights.

A method turns the outputs of a student and a teacher into one raw, unweighted scalar. Parts that
learn (projectors, memories) are its submodules; weighting and ramping are the distiller's work.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dotkd._validate import check_non_negative

# What a method gets beside the two models' outputs and the target.
CONTEXT = frozenset({"index", "progress"})
# What ``needs`` may name that is no feature.
NO_FEATURES = frozenset({"logits", "target", "index"})
# What it may name that has no meaning for a mixture of two images.
ONE_IMAGE = frozenset({"target", "index"})


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one model returned for one batch.

    Args:
        logits: ``[B, C]``.
        features: The tapped features by name; empty unless the method needs some. Kinds that are
            several features are ``stages.0``, ``stages.1``, ...

    Example:
        >>> features = {"stages.0": torch.zeros(2, 4), "stages.1": torch.ones(2, 4)}
        >>> outputs = Outputs(torch.zeros(2, 3), features)
        >>> [float(feature.sum()) for feature in outputs.group("stages")]
        [0.0, 8.0]
    """

    logits: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)

    def group(self, kind: str) -> list[Tensor]:
        """The features of a kind that is several of them, from the images to the logits.

        Args:
            kind: ``"stages"`` or ``"preacts"``.

        Returns:
            The features.
        """
        return [feature for name, feature in self.features.items() if name.startswith(f"{kind}.")]

    def in_float32(self) -> "Outputs":
        """The same outputs with float16 and bfloat16 tensors widened to float32.

        Returns:
            New outputs; wider tensors are passed on as they are.
        """
        features = {name: _widened(feature) for name, feature in self.features.items()}
        return Outputs(_widened(self.logits), features)


@dataclass(frozen=True, eq=False)
class Setting:
    """What a method may look at once, before training, to make its learned parts.

    Args:
        student: The student.
        teacher: The teacher, frozen.
        student_outputs: Its outputs for one small batch, in evaluation mode and without a graph.
        teacher_outputs: The teacher's for the same batch.
        student_paths: Where each of the student's features is.
        teacher_paths: Where each of the teacher's is.
        labels: ``[N]`` int64, the class of each sample number of the training data, -1 for numbers that are
            not among them; None if the loop does not know.
    """

    student: nn.Module
    teacher: nn.Module
    student_outputs: Outputs
    teacher_outputs: Outputs
    student_paths: Mapping[str, str]
    teacher_paths: Mapping[str, str]
    labels: Tensor | None = None


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


class Method(nn.Module, ABC):
    """A way to distill: a loss between two models' outputs, with its weights and learned parts.

    The distiller hands two losses to the optimizer and never sums them::

        task    = task_weight * cross_entropy
        distill = distill_weight * ramp(progress) * method(student, teacher, target, ...)

    A subclass states ``needs`` and defines :meth:`forward`; with ``@register("name")`` above it,
    it can be created by name. Parts whose shapes depend on the two models are made in :meth:`prepare`.

    Attributes:
        needs: What :meth:`forward` reads: ``"logits"`` (compared class by class), ``"target"`` (one class
            for each image, so that labels cannot be mixed), ``"index"`` (sample numbers), and features: a
            kind of :data:`~dotkd.features.paths.KINDS`, which models find by themselves, or a name of the
            method's own, for which the distiller asks a tap.
        streams: Names of the distillation losses, where there are several: :meth:`forward` then returns a
            dictionary with one scalar for each. Empty for the usual one.
        learns: Whether :meth:`prepare` has to be called before training.

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
        ...     learns = True
        ...
        ...     def prepare(self, setting: Setting):
        ...         outputs = (setting.student_outputs, setting.teacher_outputs)
        ...         self.project = nn.Linear(*(each.features["block"].shape[1] for each in outputs))
        ...
        ...     def forward(self, student, teacher, target, *, index, progress):
        ...         block = self.project(student.features["block"])
        ...         return nn.functional.mse_loss(block, teacher.features["block"])
        >>> MatchedBlock(distill_weight=2.0, warmup=0.5).ramp(0.25)
        0.5
    """

    needs: tuple[str, ...] = ("logits",)
    streams: tuple[str, ...] = ()
    learns: bool = False

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
    ) -> Tensor | dict[str, Tensor]:
        """The raw distillation loss of one batch.

        Args:
            student: The student's outputs, attached to its graph.
            teacher: The teacher's outputs, without a graph.
            target: ``[B]`` int64 class numbers.
            index: ``[B]`` int64 numbers of the samples in their data set, or None if the loop does
                not know them; a method that cannot do without must say so.
            progress: How much of the run is over, in [0, 1].

        Returns:
            A scalar, unweighted and not ramped; one for each of ``streams`` where there are any.
        """

    def prepare(self, setting: Setting) -> None:
        """Make the learned parts, once, before training; their weights come from torch's generator.

        Args:
            setting: The two models, what they return for one batch, and the labels.

        Raises:
            ValueError: The models' features do not suit the method.
        """

    def task_logits(self, student: Outputs) -> Tensor:
        """The logits on which the task loss is computed and which are deployed.

        Args:
            student: The student's outputs, attached to its graph.

        Returns:
            The student's own, unless the method classifies in another way.
        """
        return student.logits

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

    def deployable_like(
        self,
        student: nn.Module,
        weights: Mapping[str, Tensor],  # noqa: ARG002
        paths: Mapping[str, str],  # noqa: ARG002
    ) -> nn.Module:
        """An untrained module of the shape of :meth:`deployable`, to load its weights into.

        Args:
            student: A student.
            weights: The weights that are to be loaded; their shapes tell those of the learned parts.
            paths: Where the student's features are, as far as it was not left to the student to say.

        Returns:
            The student itself, unless the method trains parts that inference needs.

        Raises:
            ValueError: The weights are not those of such a module.
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


class TaskMethod(nn.Module, ABC):
    """A way to train on labels alone, in place of the cross entropy: one loss, no teacher.

    The baselines of the field that need no teacher. They have a single gradient, so there is nothing for a
    distillation optimizer to keep apart; a :class:`~dotkd.Distiller` refuses them.

    Example:
        >>> class Brier(TaskMethod):
        ...     def forward(self, logits, target):
        ...         wanted = nn.functional.one_hot(target, logits.shape[1])
        ...         return (logits.softmax(dim=1) - wanted).square().sum(dim=1).mean()
        >>> round(float(Brier()(torch.zeros(1, 2), torch.tensor([0]))), 4)
        0.5
    """

    @abstractmethod
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of one batch.

        Args:
            logits: ``[B, C]``, at least float32.
            target: ``[B]`` int64 class numbers.

        Returns:
            A scalar.
        """


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
    ) -> Tensor | dict[str, Tensor]:
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
