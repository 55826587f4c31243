"""The interface of distillation methods: model outputs in, a raw loss out, weights and learned parts.

A method turns the outputs of a student and a teacher into a raw, unweighted loss. Parts that learn
(projectors, memories) are its submodules; the distiller applies weights and ramps.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dotkd._validate import check_non_negative, check_share

# Optional arguments of a method's function, beside the outputs of both models and the target.
CONTEXT = frozenset({"index", "progress"})
# Names in ``needs`` that are not features; mixed images have no hard labels and no sample number.
_NO_FEATURES = frozenset({"logits", "target", "index"})
_HARD_LABELS = frozenset({"target", "index"})
_WEIGHTS = ("task_weight", "distill_weight", "warmup")


@dataclass(frozen=True, eq=False)
class Outputs:
    """The outputs of one model for one batch.

    Args:
        logits: ``[B, C]``.
        features: The tapped features by name, as far as the method needs them. Kinds that are several
            features are ``stages.0``, ``stages.1``, ...

    Example:
        >>> features = {"stages.0": torch.zeros(2, 4), "stages.1": torch.ones(2, 4)}
        >>> outputs = Outputs(torch.zeros(2, 3), features)
        >>> [float(feature.sum()) for feature in outputs.group("stages")]
        [0.0, 8.0]
    """

    logits: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)

    def group(self, kind: str) -> list[Tensor]:
        """The features of a kind that is several (``"stages"`` or ``"preacts"``), from images to logits."""
        return [feature for name, feature in self.features.items() if name.startswith(f"{kind}.")]

    def in_float32(self) -> "Outputs":
        """The same outputs with float16 and bfloat16 tensors widened to float32."""
        features = {name: _widened(feature) for name, feature in self.features.items()}
        return Outputs(_widened(self.logits), features)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


@dataclass(frozen=True, eq=False)
class Setting:
    """The two models and one batch of their outputs, for a method that makes its learned parts.

    Args:
        student: The student.
        teacher: The teacher, frozen.
        student_outputs: Its outputs for one small batch, in evaluation mode and without a graph.
        teacher_outputs: The teacher's for the same batch.
        student_paths: Path of each of the student's features.
        teacher_paths: Path of each of the teacher's features.
        labels: ``[N]`` int64, the class of each sample number of the training data, -1 for numbers outside
            of it; None if the loop does not know them.
    """

    student: nn.Module
    teacher: nn.Module
    student_outputs: Outputs
    teacher_outputs: Outputs
    student_paths: Mapping[str, str]
    teacher_paths: Mapping[str, str]
    labels: Tensor | None = None


class Method(nn.Module, ABC):
    """A way to distill: a loss between the outputs of two models, with its weights and learned parts.

    The distiller hands two losses to the optimizer and never sums them::

        task    = task_weight * cross_entropy
        distill = distill_weight * ramp(progress) * method(student, teacher, target, ...)

    A subclass sets ``needs`` and defines :meth:`forward`; ``@register("name")`` makes it available by name.
    Parts with shapes that depend on the two models are made in :meth:`prepare`.

    Attributes:
        needs: Inputs of :meth:`forward`: ``"logits"`` (compared class by class), ``"target"`` (class
            numbers), ``"index"`` (sample numbers) and features: kinds in :data:`dotkd.features.KINDS`,
            which models find by themselves, or names of the method's own, for which the distiller asks a
            tap.
        streams: Names of the distillation losses of a method with several: :meth:`forward` then returns a
            dictionary with one scalar for each. Empty for a single loss.
        learns: Whether :meth:`prepare` must be called before training.

    Args:
        task_weight: Weight of the task loss, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run, in [0, 1], over which the weight of the distillation loss rises linearly
            from zero; 0 for none.

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
        ...     def forward(self, student, teacher, target, **_):
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
        check_share("warmup", warmup)
        self.task_weight = task_weight
        self.distill_weight = distill_weight
        self.warmup = warmup

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features among ``needs``."""
        return tuple(name for name in self.needs if name not in _NO_FEATURES)

    @property
    def needs_hard_labels(self) -> bool:
        """Whether each image must have one class and one number, so that images cannot be mixed."""
        return not _HARD_LABELS.isdisjoint(self.needs)

    @property
    def reads_classifier(self) -> bool:
        """Whether it reads the teacher's classifier: its logits or, unless overridden, nothing of it."""
        return "logits" in self.needs

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
        """Compute the raw distillation loss of one batch.

        A method that does not read ``index`` and ``progress`` may take them as ``**_``.

        Args:
            student: The student's outputs, attached to its graph.
            teacher: The teacher's outputs, without a graph.
            target: ``[B]`` int64 class numbers; -100 for an image without a label.
            index: ``[B]`` int64 sample numbers, or None if the loop does not know them.
            progress: Share of the run that is over, in [0, 1].

        Returns:
            A scalar, unweighted and not ramped; with ``streams``, one for each of them by name.
        """

    def prepare(self, setting: Setting) -> None:
        """Make the learned parts, once, before training; their weights come from torch's generator.

        Args:
            setting: The two models, their outputs for one batch, and the labels.

        Raises:
            ValueError: The models' features do not suit the method.
        """

    def task_logits(self, student: Outputs) -> Tensor:
        """The logits of the task loss and of the deployed module: the student's, unless overridden."""
        return student.logits

    def ramp(self, progress: float) -> float:
        """The factor of the distillation weight: ``progress / warmup``, at most 1; 1 without warm-up."""
        return min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0

    def deployable(self, student: nn.Module) -> nn.Module:
        """The module to ship after training: the student, unless inference needs learned parts, too."""
        return student

    def deployable_like(
        self,
        student: nn.Module,
        weights: Mapping[str, Tensor],  # noqa: ARG002
        paths: Mapping[str, str],  # noqa: ARG002
    ) -> nn.Module:
        """Make an untrained module with the structure of :meth:`deployable`, to load weights into.

        Args:
            student: A student.
            weights: The weights to be loaded, which tell the shapes of the learned parts.
            paths: Feature paths of the student, as far as they are not its own.

        Returns:
            The student, unless inference needs learned parts, too.

        Raises:
            ValueError: The weights are not those of such a module.
        """
        return student

    def extra_repr(self) -> str:
        """Options and weights, for ``repr``."""
        options = inspect.signature(type(self).__init__).parameters
        names = dict.fromkeys([*(name for name in options if hasattr(self, name)), *_WEIGHTS])
        return ", ".join(f"{name}={_shown(getattr(self, name))}" for name in names)


def _shown(value: object) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if number else repr(value)


class FunctionMethod(Method):
    """A method made of one plain function.

    Args:
        function: ``function(student, teacher, target) -> scalar``, with :class:`Outputs` as in
            :meth:`Method.forward`; gets ``index`` and ``progress`` if it has arguments of these names. Bind
            its own options with ``functools.partial``.
        needs: Inputs of the function, see :class:`Method`.
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
        """Call the function, see :meth:`Method.forward`."""
        context = {"index": index, "progress": progress}
        wanted = {name: context[name] for name in sorted(self._wants)}
        return self.function(student, teacher, target, **wanted)

    def extra_repr(self) -> str:
        """Name of the function, and weights, for ``repr``."""
        inner = getattr(self.function, "func", self.function)
        weights = ", ".join(f"{name}={getattr(self, name):g}" for name in _WEIGHTS)
        return f"{getattr(inner, '__name__', type(inner).__name__)}, {weights}"


class TaskMethod(nn.Module, ABC):
    """A way to train on labels alone: one loss in place of the cross entropy, no teacher.

    The baselines of the field without a teacher. They have a single gradient, so that a distillation
    optimizer has nothing to keep apart; a :class:`~dotkd.Distiller` refuses them.

    Example:
        >>> class Brier(TaskMethod):
        ...     def forward(self, logits, target):
        ...         wanted = nn.functional.one_hot(target, logits.shape[1])
        ...         return (logits.softmax(dim=1) - wanted).square().sum(dim=1).mean()
        >>> round(float(Brier()(torch.zeros(1, 2), torch.tensor([0]))), 4)
        0.5
    """

    needs_hard_labels = True

    @abstractmethod
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of one batch.

        Args:
            logits: ``[B, C]``, at least float32.
            target: ``[B]`` int64 class numbers; -100 for an image without a label.

        Returns:
            A scalar.
        """
