"""Overhaul of feature distillation (OFD): partial L2 behind a ReLU that keeps a margin below zero.

Here belong the margins, the loss of one feature, and the module that connects the widths.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dotkd.losses._checks import check_same_shape, in_one_dtype
from dotkd.losses._learned import check_channel_pairs, checked_map, checked_maps
from dotkd.losses._numerics import pooled_to_the_smaller

# Where mean / std exceeds this, the difference of two almost equal numbers gives way to a series.
_TAIL = 50.0


def margin_from_batch_norm(weight: Tensor, bias: Tensor) -> Tensor:
    r"""What a channel behind a batch norm is on average, given that it is negative.

    .. math::
        m_c = \mathbb{E}[x \mid x < 0] = \beta_c - \sigma_c \, \frac{\varphi(z_c)}{\Phi(-z_c)}, \qquad
        x \sim \mathcal{N}(\beta_c, \sigma_c^2), \quad z_c = \beta_c / \sigma_c

    with :math:`\sigma` = the magnitude of ``weight``, :math:`\beta` = ``bias``, and
    :math:`\varphi, \Phi` the density and distribution function of the standard normal. Computed in
    float64 by way of the scaled complementary error function, and by a series from
    :math:`z > 50`, so that it is exact to ten digits however rarely a channel is negative. (The
    published code puts :math:`-3 \sigma` where :math:`\Phi(-z) \le 0.001`.) A channel with
    weight 0 is a constant: its margin is ``min(bias, 0)``.

    Args:
        weight: ``[C]``, floating point, of either sign.
        bias: ``[C]``, floating point.

    Returns:
        ``[C]``, at most 0, detached, in at least float32.

    Raises:
        ValueError: If shapes or dtypes do not fit.

    Example:
        >>> weight, bias = torch.tensor([1.0, -2.0, 1.0]), torch.tensor([0.0, 0.0, 40.0])
        >>> margin_from_batch_norm(weight, bias)  # -sqrt(2 / pi), twice that, about -1 / 40
        tensor([-0.7979, -1.5958, -0.0250])

    Reference:
        Heo, Kim, Yun, Park, Kwak and Choi, "A Comprehensive Overhaul of Feature Distillation",
        ICCV 2019, arXiv 1904.01866, section 3.
    """
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor.ndim != 1 or not tensor.is_floating_point():
            raise ValueError(
                f"{name} must be [C], floating point, got shape {list(tensor.shape)} and {tensor.dtype}"
            )
    check_same_shape("weight", weight, "bias", bias)
    weight, bias = in_one_dtype(weight.detach(), bias.detach())
    std, mean = weight.double().abs(), bias.double()
    z = mean / std.clamp_min(torch.finfo(torch.float64).tiny)

    hazard = math.sqrt(2 / math.pi) / torch.special.erfcx(z / math.sqrt(2))  # phi(z) / Phi(-z)
    square = z.square().reciprocal()
    tail = -std / z * (1 - square * (2 - square * (10 - square * 74)))  # of mean - std * hazard
    return torch.where(z > _TAIL, tail, mean - std * hazard).to(weight.dtype)


def margin_from_features(features: Tensor) -> Tensor:
    r"""The margin of a feature that no batch norm describes, from a batch of it.

    Mean and standard deviation of each channel are measured over samples and positions, and stand in
    for bias and weight in :func:`margin_from_batch_norm`. That asks nothing of the network: residual
    sums, linear bottlenecks (MobileNetV2) and concatenations (ShuffleNet) have no batch norm of
    their own. A rectified feature may be used too: its margin is negative but never reached, and a
    teacher's zero then only pulls a positive student down. (:func:`ofd_loss` replaces by the margin
    what lies below it.)

    Args:
        features: ``[B, C, H, W]``, floating point: a teacher's, from a batch large enough for the
            statistics of a channel.

    Returns:
        ``[C]``, at most 0, detached, in at least float32.

    Raises:
        ValueError: If the shape or the dtype does not fit.

    Example:
        >>> features = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1)  # mean 0, std 1
        >>> margin_from_features(features)
        tensor([-0.7979])

    Reference:
        Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019,
        arXiv 1904.01866, section 3: the margin, there of a batch norm only.
    """
    features = checked_map("features", features.detach())
    variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)
    return margin_from_batch_norm(variance.sqrt(), mean)


def ofd_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    r"""Partial L2 distance of one feature to the teacher's, with a margin ReLU on the teacher.

    .. math::
        L = \frac{1}{B} \sum_{b,c,h,w} [\, s > t' \text{ or } t' > 0 \,] \, (s - t')^2, \qquad
        t' = \max(t, m_c)

    with s = ``student``, t = ``teacher``, m = ``margin`` and B the batch size. Where the teacher is
    positive the student has to agree; where it is not, all that matters is that the student lies no
    higher, because a ReLU is about to forget how far below zero it was.

    Gradients flow to the student and, where it is above its margin, to the teacher.

    Args:
        student: ``[B, C, H, W]``, floating point, in front of its ReLU.
        teacher: ``[B, C, H, W]``, floating point, in front of its ReLU.
        margin: ``[C]``, floating point, at most 0.

    Returns:
        A scalar, at least float32: summed over a sample's elements, averaged over samples.

    Raises:
        ValueError: If shapes or dtypes do not fit.

    Example:
        >>> student = torch.tensor([3.0, -4.0, 1.0]).reshape(1, 1, 1, 3)
        >>> teacher = torch.tensor([1.0, -3.0, -3.0]).reshape(1, 1, 1, 3)
        >>> ofd_loss(student, teacher, torch.tensor([-0.5])).item()  # 2 ** 2 + 0 + 1.5 ** 2
        6.25

    Reference:
        Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019,
        arXiv 1904.01866, section 3.
    """
    check_same_shape("student", student, "teacher", teacher)
    student, teacher = in_one_dtype(checked_map("student", student), checked_map("teacher", teacher))
    _check_margin("margin", margin, student.shape[1])
    target = torch.maximum(teacher, margin.to(teacher.dtype).reshape(1, -1, 1, 1))
    counts = (student > target) | (target > 0)
    return torch.where(counts, (student - target).square(), 0.0).sum() / student.shape[0]


class OverhaulConnectors(nn.Module):
    r"""Brings each of a student's features to the teacher's width and compares it.

    .. math::
        L = \sum_{i=0}^{n-1} 2^{-(n-i-1)} \, L_i

    where :math:`L_i` is :func:`ofd_loss` of the i-th of n features, shallow to deep, after a 1x1
    convolution and a batch norm on the student's side. Where two maps differ in height or width, the
    larger is averaged down to the smaller. The features are meant to be taken in front of a ReLU;
    the published numbers sum over elements, so the loss is large (a weight around 1e-3 is usual).

    Margins come from anywhere: :func:`margin_from_batch_norm` of the teacher's last batch norm
    where there is one, any other numbers where not. Those left out are measured with
    :func:`margin_from_features` from the teacher's side of the first batch in training mode, and
    stay as measured; until then an evaluation measures its own batch and keeps nothing.

    Args:
        student_channels: Channels of the student's features, shallow to deep, each >= 1.
        teacher_channels: Channels of the teacher's features, as many.
        margins: For each feature ``[C]`` with the teacher's channels, or None to measure it; None
            alone measures all. They are buffers: ``state_dict`` carries them.

    Raises:
        ValueError: If the lists do not fit together, or a width is not at least 1.

    Example:
        >>> teacher_norm = nn.BatchNorm2d(16)
        >>> margins = [None, margin_from_batch_norm(teacher_norm.weight, teacher_norm.bias)]
        >>> connectors = OverhaulConnectors([4, 8], [8, 16], margins)
        >>> student = [torch.randn(2, 4, 8, 8), torch.randn(2, 8, 4, 4)]
        >>> teacher = [torch.randn(2, 8, 8, 8), torch.randn(2, 16, 8, 8)]
        >>> connectors(student, teacher).backward()
        >>> connectors.margin_1[0]
        tensor(-0.7979)

    Reference:
        Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019,
        arXiv 1904.01866, section 3; the weights are those of the published code.
    """

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        margins: Sequence[Tensor | None] | None = None,
    ) -> None:
        super().__init__()
        check_channel_pairs(student_channels, teacher_channels)
        given = [None] * len(teacher_channels) if margins is None else list(margins)
        if len(given) != len(teacher_channels):
            raise ValueError(
                f"margins must have one entry for each of {len(teacher_channels)} features, got {len(given)}"
            )
        self.student_channels = tuple(student_channels)
        self.teacher_channels = tuple(teacher_channels)
        self._to_measure = frozenset(number for number, margin in enumerate(given) if margin is None)
        self.connectors = nn.ModuleList(
            _connector(*widths) for widths in zip(student_channels, teacher_channels, strict=True)
        )
        for number, (margin, width) in enumerate(zip(given, teacher_channels, strict=True)):
            if margin is None:
                margin = torch.full((width,), math.nan)  # not known yet
            _check_margin(f"margins[{number}]", margin, width)
            self.register_buffer(f"margin_{number}", margin.detach().float().clone())

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
        """Compare the features of one batch.

        Args:
            student_features: Maps ``[B, C, H, W]``, floating point, shallow to deep.
            teacher_features: As many, of any heights and widths.

        Returns:
            A scalar, summed over features with the weights above.
        """
        ours = checked_maps("student_features", student_features, self.student_channels)
        theirs = checked_maps("teacher_features", teacher_features, self.teacher_channels)
        losses = []
        for number, (connector, student, teacher) in enumerate(
            zip(self.connectors, ours, theirs, strict=True)
        ):
            margin = self._margin(number, teacher)
            student, teacher = pooled_to_the_smaller(connector(student), teacher)
            weight = 0.5 ** (len(ours) - number - 1)
            losses.append(weight * ofd_loss(student, teacher, margin))
        return torch.stack(losses).sum()

    def extra_repr(self) -> str:
        """The widths, for ``repr``.

        Returns:
            One line.
        """
        return f"{list(self.student_channels)}, {list(self.teacher_channels)}"

    # Whether a margin is known is asked on the device: reading it here would wait.
    def _margin(self, number: int, teacher: Tensor) -> Tensor:
        known = self.get_buffer(f"margin_{number}")
        if number not in self._to_measure:
            return known
        measured = margin_from_features(teacher).to(known.dtype)
        margin = torch.where(known.isnan() & measured.isfinite(), measured, known)
        if self.training:
            known.copy_(margin)
        return margin


def _connector(student_channels: int, teacher_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
    return nn.Sequential(convolution, nn.BatchNorm2d(teacher_channels))


def _check_margin(name: str, margin: Tensor, channels: int) -> None:
    if margin.shape != (channels,) or not margin.is_floating_point():
        raise ValueError(
            f"{name} must be [C] = [{channels}], floating point, "
            f"got shape {list(margin.shape)} and {margin.dtype}"
        )
