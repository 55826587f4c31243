"""Methods on logits, and the baselines without a teacher."""

from typing import Any

from torch import Tensor

from dotkd._validate import check_below_one, check_non_negative, check_positive
from dotkd.losses import (
    deepkd_losses,
    dist_loss,
    dkd_loss,
    kd_loss,
    label_smoothing_loss,
    multi_level_loss,
    nkd_loss,
    teacher_free_kd_loss,
    top_k_schedule,
)
from dotkd.losses._numerics import task_loss
from dotkd.methods.base import Method, Outputs, TaskMethod
from dotkd.methods.registry import register

# ruff: noqa: ARG001, ARG002  (a method need not read all of its inputs)


@register("kd")
class KD(Method):
    """Knowledge distillation, see :func:`dotkd.losses.kd_loss`.

    The defaults are the published CIFAR-100 recipe: 0.1 of the cross entropy and 0.9 of the distillation
    loss at temperature 4. (ImageNet: temperature 1, both weights 0.5.)

    Args:
        temperature: Softens both distributions, > 0.
        standardize: Use z-scores of the logits; the published recipes then take temperature 2.
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> KD(temperature=2.0)
        KD(temperature=2, standardize=False, task_weight=0.1, distill_weight=0.9, warmup=0)

    Reference:
        Hinton, Vinyals and Dean, 2015, arXiv 1503.02531; with ``standardize``: Sun et al., CVPR 2024,
        arXiv 2403.01427.
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

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor, **_: Any) -> Tensor:
        """The raw loss, see :meth:`dotkd.methods.Method.forward`."""
        return kd_loss(
            student.logits, teacher.logits, temperature=self.temperature, standardize=self.standardize
        )


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
    """Multi-level logit distillation, see :func:`dotkd.losses.multi_level_loss`.

    The published training draws a weak and a strong view of each image, for 480 epochs; this is the loss of
    one view.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Not read.
        temperatures: Temperatures of the terms that are summed, each > 0.
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
    """DIST: correlations between and within classes, see :func:`dotkd.losses.dist_loss`.

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


@register("dkd")
class DKD(Method):
    """Decoupled knowledge distillation, see :func:`dotkd.losses.dkd_loss`.

    The published CIFAR-100 recipe ramps the distillation weight over the first 20 of 240 epochs,
    ``warmup=20/240``, and chooses ``beta`` for each pair of models (8 for most, 2 or 6 for some).

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

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor, **_: Any) -> Tensor:
        """The raw loss, see :meth:`dotkd.methods.Method.forward`."""
        options = {"alpha": self.alpha, "beta": self.beta, "temperature": self.temperature}
        return dkd_loss(student.logits, teacher.logits, target, **options)


@register("nkd", needs=("logits", "target"))
def nkd(
    student: Outputs, teacher: Outputs, target: Tensor, *, gamma: float = 1.5, temperature: float = 1.0
) -> Tensor:
    """Normalized knowledge distillation, see :func:`dotkd.losses.nkd_loss`.

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


@register("deepkd")
class DeepKD(Method):
    """DeepKD: deeply decoupled and denoised distillation, see :func:`dotkd.losses.deepkd_losses`.

    Its two losses are streams of their own. With :class:`~dotkd.optim.MultiMomentumSGD` and
    :func:`~dotkd.optim.deepkd_momenta` each has its own momentum beside the task's, which is the paper's
    method. Every other optimizer gets their sum, which without the mask is the loss of
    :class:`~dotkd.methods.DKD`.

    ``alpha``, ``beta``, ``temperature``, ``task_weight`` and the warm-up of 20 epochs out of 240 are those
    of the released CIFAR-100 recipes that build on DKD (``beta`` is chosen for each pair of models, from
    0.5 to 8). The released ImageNet recipes have temperature 1, a warm-up of one epoch out of 100, and
    ``beta`` 1 for ResNet34 to ResNet18 or 2 for ResNet50 to MobileNet. The mask grows from 5 % of the
    classes to all of them as in the paper, see :func:`dotkd.losses.top_k_schedule` for its phases;
    ``k_start=1`` is no mask, as in the released recipes.

    Args:
        alpha: Weight of the target-class loss, >= 0.
        beta: Weight of the other classes' loss, >= 0.
        temperature: Softens all distributions, > 0.
        k_start: Share of the classes that the mask keeps at the start, in (0, 1]; 1 for no mask.
        k_plateau: Height of the plateau of the second phase between the start and all classes, in [0, 1].
        rise_end: End of the first phase, as a share of the run.
        hold_end: End of the second phase.
        full_from: Point from which all classes are kept.
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of both distillation losses, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> import torch
        >>> method = DeepKD(beta=2.0)
        >>> student, teacher = Outputs(torch.zeros(1, 4)), Outputs(torch.tensor([[0.0, 8.0, 4.0, 0.0]]))
        >>> losses = method(student, teacher, torch.tensor([0]), index=None, progress=0.5)
        >>> list(losses)
        ['target', 'others']

    Reference:
        Huang, Song, Zhang and Ren, NeurIPS 2025, arXiv 2505.15133.
    """

    needs = ("logits", "target")
    streams = ("target", "others")

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        k_start: float = 0.05,
        k_plateau: float = 0.5,
        rise_end: float = 1 / 3,
        hold_end: float = 2 / 3,
        full_from: float = 1.0,
        task_weight: float = 1.0,
        distill_weight: float = 1.0,
        warmup: float = 20 / 240,
    ) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)
        check_non_negative("alpha", alpha)
        check_non_negative("beta", beta)
        check_positive("temperature", temperature)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.k_start = k_start
        self.k_plateau = k_plateau
        self.rise_end = rise_end
        self.hold_end = hold_end
        self.full_from = full_from
        self._top_k(0.0, num_classes=2)  # refuses an option out of range now, not in the first step

    def forward(
        self, student: Outputs, teacher: Outputs, target: Tensor, *, progress: float = 1.0, **_: Any
    ) -> dict[str, Tensor]:
        """Both raw losses by stream, see :meth:`dotkd.methods.Method.forward`."""
        top_k = self._top_k(progress, student.logits.shape[1])
        losses = deepkd_losses(
            student.logits, teacher.logits, target, temperature=self.temperature, top_k=top_k
        )
        return {"target": self.alpha * losses[0], "others": self.beta * losses[1]}

    def _top_k(self, progress: float, num_classes: int) -> int:
        return top_k_schedule(
            progress,
            num_classes,
            k_start=self.k_start,
            k_plateau=self.k_plateau,
            rise_end=self.rise_end,
            hold_end=self.hold_end,
            full_from=self.full_from,
        )


# ---------------------------------------------------------------- without a teacher


@register("label_smoothing")
class LabelSmoothing(TaskMethod):
    """Cross entropy with smoothed labels, see :func:`dotkd.losses.label_smoothing_loss`.

    Args:
        smoothing: Share of the probability that all classes share, in [0, 1).

    Raises:
        ValueError: If it is out of range.

    Example:
        >>> import torch
        >>> round(float(LabelSmoothing(smoothing=0.2)(torch.zeros(1, 4), torch.tensor([1]))), 4)  # log(4)
        1.3863

    Reference:
        Szegedy et al., CVPR 2016, arXiv 1512.00567.
    """

    def __init__(self, smoothing: float = 0.1) -> None:
        super().__init__()
        check_below_one("smoothing", smoothing)
        self.smoothing = smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, see :meth:`dotkd.methods.TaskMethod.forward`."""
        return label_smoothing_loss(logits, target, smoothing=self.smoothing)


@register("tf_kd")
class TeacherFreeKD(TaskMethod):
    r"""Teacher-free distillation by regularization, see :func:`dotkd.losses.teacher_free_kd_loss`.

    .. math::
        L = w_t \, \mathrm{CE} + w_d \, L_{tf}

    with :math:`w_t` = ``task_weight`` and :math:`w_d` = ``distill_weight``. Both terms come from the label:
    they are one loss with one gradient.

    Args:
        correct_probability: Probability that the virtual teacher gives to the label's class, in (1/C, 1].
        temperature: Softens the virtual teacher, > 0.
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of the virtual teacher, >= 0.

    Raises:
        ValueError: If a weight is negative.

    Example:
        >>> import torch
        >>> loss = TeacherFreeKD()(torch.zeros(2, 4), torch.tensor([1, 3]))
        >>> bool(loss > 0)
        True

    Reference:
        Yuan et al., CVPR 2020, arXiv 1909.11723.
    """

    def __init__(
        self,
        correct_probability: float = 0.99,
        temperature: float = 20.0,
        task_weight: float = 0.9,
        distill_weight: float = 0.1,
    ) -> None:
        super().__init__()
        check_non_negative("task_weight", task_weight)
        check_non_negative("distill_weight", distill_weight)
        self.correct_probability = correct_probability
        self.temperature = temperature
        self.task_weight = task_weight
        self.distill_weight = distill_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, see :meth:`dotkd.methods.TaskMethod.forward`."""
        virtual = teacher_free_kd_loss(
            logits, target, correct_probability=self.correct_probability, temperature=self.temperature
        )
        return self.task_weight * task_loss(logits, target) + self.distill_weight * virtual
