"""Baselines without a teacher: what replaces the cross entropy of a plain student."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from dotkd.losses._checks import check_non_negative
from dotkd.losses.target import label_smoothing_loss, teacher_free_kd_loss
from dotkd.methods.base import TaskMethod
from dotkd.methods.registry import register


@register("label_smoothing")
class LabelSmoothing(TaskMethod):
    """Cross entropy with smoothed labels, see :func:`dotkd.losses.label_smoothing_loss`.

    Args:
        smoothing: Share of the probability that goes to all classes alike, in [0, 1).

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
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must lie in [0, 1), got {smoothing}")
        self.smoothing = smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, see :meth:`dotkd.methods.TaskMethod.forward`.

        Returns:
            A scalar.
        """
        return label_smoothing_loss(logits, target, smoothing=self.smoothing)


@register("tf_kd")
class TeacherFreeKD(TaskMethod):
    r"""Cross entropy and a virtual teacher made by hand, see :func:`dotkd.losses.teacher_free_kd_loss`.

    .. math::
        L = w_t \, \mathrm{CE} + w_d \, L_{tf}

    with :math:`w_t` = ``task_weight`` and :math:`w_d` = ``distill_weight``. Both terms come from the label,
    so they are one loss with one gradient.

    Args:
        correct_probability: What the virtual teacher gives to the label's class, in (1/C, 1).
        temperature: Softens the student, > 0.
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
        Yuan et al., CVPR 2020, arXiv 1909.11723, section 4 (Tf-KD by regularization).
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
        """The loss, see :meth:`dotkd.methods.TaskMethod.forward`.

        Returns:
            A scalar.
        """
        virtual = teacher_free_kd_loss(
            logits, target, correct_probability=self.correct_probability, temperature=self.temperature
        )
        return self.task_weight * cross_entropy(logits, target) + self.distill_weight * virtual
