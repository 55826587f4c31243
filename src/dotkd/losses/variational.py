"""Variational information distillation: the student predicts the teacher's feature, and how surely.

Here belong the likelihood of one feature and the module that owns the predictor.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dotkd.losses._checks import check_count, check_positive, check_same_shape, in_one_dtype
from dotkd.losses._learned import checked_map
from dotkd.losses._numerics import pooled_to_the_smaller


def vid_loss(mean: Tensor, teacher: Tensor, log_scale: Tensor, *, eps: float = 1e-5) -> Tensor:
    r"""Negative log-likelihood of a feature map under a Gaussian with one variance per channel.

    .. math::
        L = \frac{1}{BCHW} \sum_{b,c,h,w} \frac{1}{2} \left(
            \frac{(t_{bchw} - \mu_{bchw})^2}{\sigma_c^2} + \log \sigma_c^2 \right), \qquad
        \sigma_c^2 = \log(1 + e^{a_c}) + \epsilon

    with :math:`\mu` = ``mean``, t = ``teacher``, a = ``log_scale`` and :math:`\epsilon` = ``eps``,
    the least variance. The constant :math:`\frac12 \log 2\pi` is left out, so the loss can be
    negative. To lower it is to raise a bound on the mutual information of the two networks. The best
    variance is the mean squared error of its channel: what cannot be predicted is given less weight.

    Gradients flow to all three tensors.

    Args:
        mean: ``[B, C, H, W]``, floating point: what the student predicts.
        teacher: ``[B, C, H, W]``, floating point.
        log_scale: ``[C]``, floating point: the variance before the softplus.
        eps: > 0.

    Returns:
        A scalar, at least float32: float16 and bfloat16 features are computed in float32.

    Raises:
        ValueError: If shapes or dtypes do not fit, or ``eps`` is not positive.

    Example:
        >>> mean, teacher = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]]])
        >>> log_scale = torch.tensor([math.log(math.e - 1)])  # variance 1: half the mean square, 5 / 2
        >>> round(vid_loss(mean, teacher, log_scale).item(), 4)
        2.5

    Reference:
        Ahn, Hu, Damianou, Lawrence and Dai, "Variational Information Distillation for Knowledge
        Transfer", CVPR 2019, arXiv 1904.05835, section 2.
    """
    check_positive("eps", eps)
    check_same_shape("mean", mean, "teacher", teacher)
    mean, teacher = in_one_dtype(checked_map("mean", mean), checked_map("teacher", teacher))
    if log_scale.shape != mean.shape[1:2] or not log_scale.is_floating_point():
        raise ValueError(
            f"log_scale must be [C] = {list(mean.shape[1:2])}, floating point, "
            f"got shape {list(log_scale.shape)} and {log_scale.dtype}"
        )
    mean, log_scale = in_one_dtype(mean, log_scale)
    variance = functional.softplus(log_scale).add(eps).reshape(1, -1, 1, 1)
    return 0.5 * ((teacher - mean).square() / variance + variance.log()).mean()


class VariationalRegressor(nn.Module):
    r"""Predicts a teacher's feature map from the student's, and scores the prediction.

    The predictor of the mean is three 1x1 convolutions without bias, with ReLU between them; the
    variance is one learned number per channel. The score is :func:`vid_loss`. Where the two maps
    differ in height or width, the larger is averaged down to the smaller before anything else.

    ``log_scale`` is a parameter like the others, so an optimizer over ``parameters()`` moves it.
    (In the code published with the comparison of Tian et al. it is one too, but the optimizer never
    gets it, and the variance stays where it started.)

    Args:
        student_channels: Channels of the student's feature, >= 1.
        teacher_channels: Channels of the teacher's feature, >= 1.
        hidden_channels: Width of the two hidden layers; by default ``teacher_channels``.
        initial_variance: Variance of every channel at the start, > ``eps``.
        eps: The least variance, > 0.

    Raises:
        ValueError: If a width is not at least 1, or ``eps`` or the variance is out of range.

    Example:
        >>> regressor = VariationalRegressor(student_channels=8, teacher_channels=16)
        >>> loss = regressor(torch.randn(4, 8, 6, 6), torch.randn(4, 16, 3, 3))
        >>> loss.backward()
        >>> regressor.log_scale.grad.shape
        torch.Size([16])

    Reference:
        Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019,
        arXiv 1904.05835, section 2.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        hidden_channels: int | None = None,
        initial_variance: float = 5.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        hidden = teacher_channels if hidden_channels is None else hidden_channels
        check_count("student_channels", student_channels)
        check_count("teacher_channels", teacher_channels)
        check_count("hidden_channels", hidden)
        check_positive("eps", eps)
        if not (math.isfinite(initial_variance) and initial_variance > eps):
            raise ValueError(
                f"initial_variance must be a finite number > eps = {eps}, got {initial_variance}"
            )
        self.student_channels = student_channels
        self.teacher_channels = teacher_channels
        self.eps = eps
        self.regressor = nn.Sequential(
            nn.Conv2d(student_channels, hidden, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, teacher_channels, 1, bias=False),
        )
        softplus = initial_variance - eps
        start = softplus + math.log(-math.expm1(-softplus))  # softplus(start) is softplus
        self.log_scale = nn.Parameter(torch.full((teacher_channels,), start))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Score the prediction of one batch.

        Args:
            student: ``[B, student_channels, H, W]``, floating point.
            teacher: ``[B, teacher_channels, H', W']``, floating point.

        Returns:
            A scalar, as from :func:`vid_loss`.
        """
        student = checked_map("student", student, self.student_channels)
        teacher = checked_map("teacher", teacher, self.teacher_channels)
        student, teacher = pooled_to_the_smaller(student, teacher)
        return vid_loss(self.regressor(student), teacher, self.log_scale, eps=self.eps)

    def extra_repr(self) -> str:
        """The widths and the least variance, for ``repr``.

        Returns:
            One line.
        """
        return f"{self.student_channels}, {self.teacher_channels}, eps={self.eps:g}"
