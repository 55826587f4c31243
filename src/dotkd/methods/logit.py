"""Methods on logits alone: no taps, no learned parts."""

# ruff: noqa: ARG001, ARG002  (a method need not read all that it is given)

from torch import Tensor

from dotkd.losses._checks import check_non_negative, check_positive
from dotkd.losses.logit import dkd_loss, kd_loss
from dotkd.losses.logit_relation import dist_loss, multi_level_loss
from dotkd.losses.target import nkd_loss
from dotkd.methods.base import Method, Outputs
from dotkd.methods.registry import register


@register("kd")
class KD(Method):
    """Knowledge distillation, see :func:`dotkd.losses.kd_loss`.

    The defaults are the published CIFAR-100 recipe: 0.1 of the cross entropy and 0.9 of the
    distillation loss at temperature 4. (ImageNet: temperature 1, both weights 0.5.)

    Args:
        temperature: Softens both distributions, > 0.
        standardize: Use z-scored logits; the published recipes then take temperature 2.
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> KD(temperature=2.0)
        KD(temperature=2, standardize=False, task_weight=0.1, distill_weight=0.9, warmup=0)

    Reference:
        Hinton, Vinyals and Dean, 2015, arXiv 1503.02531; with ``standardize``: Sun et al., CVPR
        2024, arXiv 2403.01427.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        standardize: bool = False,
        task_weight: float = 0.1,
        distill_weight: float = 0.9,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)
        check_positive("temperature", temperature)
        self.temperature = temperature
        self.standardize = standardize

    def forward(
        self,
        student: Outputs,
        teacher: Outputs,
        target: Tensor,
        *,
        index: Tensor | None = None,
        progress: float = 1.0,
    ) -> Tensor:
        """The raw loss, see :meth:`dotkd.methods.Method.forward`.

        Returns:
            A scalar.
        """
        return kd_loss(
            student.logits,
            teacher.logits,
            temperature=self.temperature,
            standardize=self.standardize,
        )

    def extra_repr(self) -> str:
        """The options, for ``repr``.

        Returns:
            One line.
        """
        own = f"temperature={self.temperature:g}, standardize={self.standardize}"
        return f"{own}, {super().extra_repr()}"


@register("dkd")
class DKD(Method):
    """Decoupled knowledge distillation, see :func:`dotkd.losses.dkd_loss`.

    The published CIFAR-100 recipe ramps the distillation weight over the first 20 of 240 epochs,
    i.e. ``warmup=20/240``, and chooses ``beta`` per pair of models (8 for most, 2 or 6 for some).

    Args:
        alpha: Weight of the target-class term, >= 0.
        beta: Weight of the other classes' term, >= 0.
        temperature: Softens all distributions, > 0.
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> DKD(beta=2.0, warmup=20 / 240).ramp(10 / 240)
        0.5

    Reference:
        Zhao, Cui, Song, Qiu and Liang, CVPR 2022, arXiv 2203.08679.
    """

    needs = ("logits", "target")

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        task_weight: float = 1.0,
        distill_weight: float = 1.0,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)
        check_non_negative("alpha", alpha)
        check_non_negative("beta", beta)
        check_positive("temperature", temperature)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def forward(
        self,
        student: Outputs,
        teacher: Outputs,
        target: Tensor,
        *,
        index: Tensor | None = None,
        progress: float = 1.0,
    ) -> Tensor:
        """The raw loss, see :meth:`dotkd.methods.Method.forward`.

        Returns:
            A scalar.
        """
        return dkd_loss(
            student.logits,
            teacher.logits,
            target,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
        )

    def extra_repr(self) -> str:
        """The options, for ``repr``.

        Returns:
            One line.
        """
        own = f"alpha={self.alpha:g}, beta={self.beta:g}, temperature={self.temperature:g}"
        return f"{own}, {super().extra_repr()}"


@register("dist", distill_weight=2.0)
def dist(
    student: Outputs,
    teacher: Outputs,
    target: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """Correlations between and within classes, see :func:`dotkd.losses.dist_loss`.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Not read.
        beta: Weight of the relation between classes, >= 0.
        gamma: Weight of the relation within a class, >= 0.
        temperature: Softens both distributions, > 0; 4 in the paper's CIFAR-100 recipe, 1 on ImageNet.

    Returns:
        A scalar.

    Reference:
        Huang et al., NeurIPS 2022, arXiv 2205.10536.
    """
    return dist_loss(student.logits, teacher.logits, beta=beta, gamma=gamma, temperature=temperature)


@register("nkd", needs=("logits", "target"))
def nkd(
    student: Outputs, teacher: Outputs, target: Tensor, *, gamma: float = 1.5, temperature: float = 1.0
) -> Tensor:
    """Normalized distillation of the other classes, see :func:`dotkd.losses.nkd_loss`.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Class numbers.
        gamma: Weight of the other classes, >= 0.
        temperature: Softens the other classes, > 0.

    Returns:
        A scalar.

    Reference:
        Yang et al., ICCV 2023, arXiv 2303.13005.
    """
    return nkd_loss(student.logits, teacher.logits, target, gamma=gamma, temperature=temperature)


@register("mlkd", task_weight=0.1, distill_weight=0.9)
def multi_level(
    student: Outputs,
    teacher: Outputs,
    target: Tensor,
    *,
    temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0),
    instance_weight: float = 1.0,
    batch_weight: float = 1.0,
    class_weight: float = 1.0,
) -> Tensor:
    """Samples, batches and classes at several temperatures, see :func:`dotkd.losses.multi_level_loss`.

    The published run draws a weak and a strong view of each image and trains for 480 epochs; this is the
    loss of one view.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Not read.
        temperatures: Of the terms that are summed, each > 0.
        instance_weight: Weight of the samples, >= 0.
        batch_weight: Weight of the relations between samples, >= 0.
        class_weight: Weight of the relations between classes, >= 0.

    Returns:
        A scalar.

    Reference:
        Jin, Wang and Lin, CVPR 2023.
    """
    return multi_level_loss(
        student.logits,
        teacher.logits,
        temperatures=temperatures,
        instance_weight=instance_weight,
        batch_weight=batch_weight,
        class_weight=class_weight,
    )
