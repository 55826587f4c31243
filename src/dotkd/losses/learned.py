"""Feature losses with learned parts: VID (variational), OFD (overhaul) and ReviewKD (knowledge review).

Each learned part is a plain module that knows the channels of the two models; its ``state_dict`` holds all
it needs.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dotkd._validate import (
    check_count,
    check_positive,
    check_same_shape,
    checked_floats,
    describe,
    in_one_dtype,
)
from dotkd.losses._numerics import in_full_precision, pooled_to_the_smaller

# margin_from_batch_norm: where mean / std exceeds this, the difference of two almost equal numbers gives
# way to a series.
_TAIL = 50.0
# ReviewFusion: the published bound on the width in which features are fused.
_WIDEST = 512


# ---------------------------------------------------------------- VID


@in_full_precision
def vid_loss(mean: Tensor, teacher: Tensor, log_scale: Tensor, *, eps: float = 1e-5) -> Tensor:
    r"""Negative log-likelihood of a feature map under a Gaussian with one variance per channel.

    .. math::
        L = \frac{1}{BCHW} \sum_{b,c,h,w} \frac{1}{2} \left(
            \frac{(t_{bchw} - \mu_{bchw})^2}{\sigma_c^2} + \log \sigma_c^2 \right), \qquad
        \sigma_c^2 = \log(1 + e^{a_c}) + \epsilon

    with :math:`\mu` = ``mean``, t = ``teacher``, a = ``log_scale`` and :math:`\epsilon` = ``eps``, the
    smallest variance. The constant :math:`\frac12 \log 2\pi` is left out, so the loss can be negative.
    Lowering it raises a lower bound on the mutual information of the two networks. The best variance is the
    mean squared error of its channel: a channel that is hard to predict weighs less.

    Gradients flow to all three tensors.

    Args:
        mean: ``[B, C, H, W]``, floating point: the student's prediction.
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
    mean, teacher = in_one_dtype(_checked_map("mean", mean), _checked_map("teacher", teacher))
    mean, log_scale = in_one_dtype(mean, _checked_channel_vector("log_scale", log_scale, mean.shape[1]))
    variance = functional.softplus(log_scale).add(eps).reshape(1, -1, 1, 1)
    return 0.5 * ((teacher - mean).square() / variance + variance.log()).mean()


class VariationalRegressor(nn.Module):
    r"""Predicts a teacher's feature map from the student's and scores the prediction with :func:`vid_loss`.

    Three 1x1 convolutions without bias, with ReLU between them, predict the mean; the variance is one
    learned number per channel. Where the two maps differ in height or width, the larger is averaged down to
    the smaller first.

    ``log_scale`` is a parameter, so that an optimizer over ``parameters()`` moves it. (The code published
    with the comparison of Tian et al. never hands it to the optimizer: its variance stays at the start.)

    Args:
        student_channels: Channels of the student's feature, >= 1.
        teacher_channels: Channels of the teacher's feature, >= 1.
        hidden_channels: Width of the two hidden layers; by default ``teacher_channels``.
        initial_variance: Variance of every channel at the start, > ``eps``.
        eps: The smallest variance, > 0.

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

    @in_full_precision
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Negative log-likelihood of one batch.

        Args:
            student: ``[B, student_channels, H, W]``, floating point.
            teacher: ``[B, teacher_channels, H', W']``, floating point.

        Returns:
            A scalar, as from :func:`vid_loss`.
        """
        student = _checked_map("student", student, self.student_channels)
        teacher = _checked_map("teacher", teacher, self.teacher_channels)
        student, teacher = pooled_to_the_smaller(student, teacher)
        return vid_loss(self.regressor(student), teacher, self.log_scale, eps=self.eps)

    def extra_repr(self) -> str:
        """Widths and smallest variance, for ``repr``."""
        return f"{self.student_channels}, {self.teacher_channels}, eps={self.eps:g}"


# ---------------------------------------------------------------- OFD


def margin_from_batch_norm(weight: Tensor, bias: Tensor) -> Tensor:
    r"""The mean of a channel behind a batch norm, given that it is negative.

    .. math::
        m_c = \mathbb{E}[x \mid x < 0] = \beta_c - \sigma_c \, \frac{\varphi(z_c)}{\Phi(-z_c)}, \qquad
        x \sim \mathcal{N}(\beta_c, \sigma_c^2), \quad z_c = \beta_c / \sigma_c

    with :math:`\sigma` = the magnitude of ``weight``, :math:`\beta` = ``bias``, and :math:`\varphi, \Phi`
    the density and distribution function of the standard normal. Computed in float64 with the scaled
    complementary error function, and with a series for :math:`z > 50`: exact to ten digits, however rarely
    a channel is negative. (The published code takes :math:`-3 \sigma` where :math:`\Phi(-z) \le 0.001`.) A
    channel with weight 0 is a constant: its margin is ``min(bias, 0)``.

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
    checked_floats("weight", weight, "[C]", weight.ndim == 1)
    _checked_channel_vector("bias", bias, len(weight))
    weight, bias = in_one_dtype(weight.detach(), bias.detach())
    std, mean = weight.double().abs(), bias.double()
    z = mean / std.clamp_min(torch.finfo(torch.float64).tiny)

    hazard = math.sqrt(2 / math.pi) / torch.special.erfcx(z / math.sqrt(2))  # phi(z) / Phi(-z)
    square = z.square().reciprocal()
    tail = -std / z * (1 - square * (2 - square * (10 - square * 74)))  # of mean - std * hazard
    return torch.where(z > _TAIL, tail, mean - std * hazard).to(weight.dtype)


def margin_from_features(features: Tensor) -> Tensor:
    r"""The margin of a feature without a batch norm of its own, from a batch of it.

    Mean and standard deviation of each channel, over samples and positions, take the place of bias and
    weight in :func:`margin_from_batch_norm`. This works for any network: residual sums, linear bottlenecks
    (MobileNetV2) and concatenations (ShuffleNet) have no batch norm of their own. A rectified feature works
    too: its margin is negative but never reached, and a teacher's zero only pulls a positive student down.

    Args:
        features: ``[B, C, H, W]``, floating point: the teacher's, from a batch large enough for the
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
    features = _checked_map("features", features.detach())
    variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)
    return margin_from_batch_norm(variance.sqrt(), mean)


@in_full_precision
def ofd_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    r"""Partial L2 distance of one feature to the teacher's, with a margin ReLU on the teacher.

    .. math::
        L = \frac{1}{B} \sum_{b,c,h,w} [\, s > t' \text{ or } t' > 0 \,] \, (s - t')^2, \qquad
        t' = \max(t, m_c)

    with s = ``student``, t = ``teacher``, m = ``margin`` and B the batch size. Where the teacher is
    positive the student has to agree. Elsewhere the student only must not lie higher: the ReLU that follows
    discards how far below zero it is.

    Gradients flow to the student and, above its margin, to the teacher.

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
    student, teacher = in_one_dtype(_checked_map("student", student), _checked_map("teacher", teacher))
    margin = _checked_channel_vector("margin", margin, student.shape[1])
    target = torch.maximum(teacher, margin.to(teacher.dtype).reshape(1, -1, 1, 1))
    counts = (student > target) | (target > 0)
    return torch.where(counts, (student - target).square(), 0.0).sum() / student.shape[0]


class OverhaulConnectors(nn.Module):
    r"""Brings each of the student's features to the teacher's width and compares them with :func:`ofd_loss`.

    .. math::
        L = \sum_{i=0}^{n-1} 2^{-(n-i-1)} \, L_i

    where :math:`L_i` is :func:`ofd_loss` of the i-th of n features, shallow to deep, after a 1x1
    convolution and a batch norm on the student's side. Where two maps differ in height or width, the larger
    is averaged down to the smaller. Features should be taken in front of a ReLU. The loss sums over
    elements, as published, so it is large (a weight around 1e-3 is usual).

    Margins usually come from :func:`margin_from_batch_norm` of the teacher's batch norms. Those left out
    are measured with :func:`margin_from_features` on the teacher's features of the first batch in training
    mode, and stay; before that, evaluation measures its own batch and keeps nothing.

    Args:
        student_channels: Channels of the student's features, shallow to deep, each >= 1.
        teacher_channels: Channels of the teacher's features, as many.
        margins: For each feature ``[C]`` with the teacher's channels, or None to measure it; None alone
            measures all. They are buffers of the ``state_dict``.

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
        _check_channel_pairs(student_channels, teacher_channels)
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
            margin = _checked_channel_vector(f"margins[{number}]", margin, width)
            self.register_buffer(f"margin_{number}", margin.detach().float().clone())

    @in_full_precision
    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
        """Compare the features of one batch.

        Args:
            student_features: Maps ``[B, C, H, W]``, floating point, shallow to deep.
            teacher_features: As many, of any heights and widths.

        Returns:
            A scalar, summed over features with the weights above.
        """
        ours = _checked_maps("student_features", student_features, self.student_channels)
        theirs = _checked_maps("teacher_features", teacher_features, self.teacher_channels)
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
        """Widths, for ``repr``."""
        return f"{list(self.student_channels)}, {list(self.teacher_channels)}"

    def _margin(self, number: int, teacher: Tensor) -> Tensor:
        """The margin of a feature, measured first if need be; decided on the device, without a wait."""
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


# ---------------------------------------------------------------- ReviewKD


class ReviewFusion(nn.Module):
    r"""Attention-based fusion of a student's features, from the deepest up to the shallowest.

    .. math::
        r_l = a_l \odot \mathrm{conv}_{1 \times 1}(s_l) + b_l \odot \mathrm{resize}(r_{l+1}), \qquad
        (a_l, b_l) = \sigma(\mathrm{conv}_{1 \times 1}
            [\mathrm{conv}_{1 \times 1}(s_l), \mathrm{resize}(r_{l+1})])

    with :math:`s_l` the l-th of ``student_features``, :math:`r_l` the feature handed to the next shallower
    level, resized to it by repetition (nearest neighbour), and two attention maps :math:`a_l, b_l` with one
    number per position. The deepest level has nothing to fuse: :math:`r_L = \mathrm{conv}_{1 \times
    1}(s_L)`. At every level :math:`r_l` is resized to the teacher's height and width, and a 3x3 convolution
    brings it to the teacher's channels: the output. A batch norm follows every convolution but the
    attention's.

    Lists of arguments, inputs and outputs run from shallow to deep. (``fusions``, the modules, run from
    deep to shallow, so that published weights fit.) A pooled vector may be the deepest feature, as a map of
    1x1; a batch then needs two samples in training mode.

    Args:
        student_channels: Channels of the student's features, each >= 1.
        teacher_channels: Channels of the teacher's features, as many.
        sizes: Heights and widths of the teacher's features: a number for a square, or a pair.
        hidden_channels: Width in which features are fused; by default the student's deepest, at most 512.

    Raises:
        ValueError: If the lists do not fit together, or an entry is not at least 1.

    Example:
        >>> fusion = ReviewFusion([8, 16, 32], [16, 32, 64], sizes=[8, 4, 1])
        >>> student = [torch.randn(2, 8, 16, 16), torch.randn(2, 16, 8, 8), torch.randn(2, 32, 1, 1)]
        >>> [tuple(fused.shape) for fused in fusion(student)]
        [(2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 1, 1)]

    Reference:
        Chen, Liu, Zhao and Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021,
        arXiv 2104.09044, section 3.
    """

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        sizes: Sequence[int | tuple[int, int]],
        *,
        hidden_channels: int | None = None,
    ) -> None:
        super().__init__()
        _check_channel_pairs(student_channels, teacher_channels)
        if len(sizes) != len(teacher_channels):
            raise ValueError(
                f"sizes must have one entry for each of {len(teacher_channels)} features, got {list(sizes)}"
            )
        hidden = min(_WIDEST, student_channels[-1]) if hidden_channels is None else hidden_channels
        check_count("hidden_channels", hidden)
        self.student_channels = tuple(student_channels)
        self.teacher_channels = tuple(teacher_channels)
        self.sizes = tuple(_height_and_width(f"sizes[{number}]", size) for number, size in enumerate(sizes))
        self.hidden_channels = hidden
        widths = list(zip(student_channels, teacher_channels, strict=True))[::-1]
        self.fusions = nn.ModuleList(
            _Fusion(student, hidden, teacher, fuse=level > 0)
            for level, (student, teacher) in enumerate(widths)
        )

    @in_full_precision
    def forward(self, student_features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse the features of one batch.

        Args:
            student_features: Maps ``[B, C, H, W]``, floating point, shallow to deep, of any sizes.

        Returns:
            For each feature a map with the teacher's channels, height and width, shallow to deep.
        """
        features = _checked_maps("student_features", student_features, self.student_channels)
        outputs: list[Tensor] = []
        deeper: Tensor | None = None
        for fusion, feature, size in zip(self.fusions, features[::-1], self.sizes[::-1], strict=True):
            output, deeper = fusion(feature, deeper, size)
            outputs.append(output)
        return outputs[::-1]

    def extra_repr(self) -> str:
        """Widths and sizes, for ``repr``."""
        return (
            f"{list(self.student_channels)}, {list(self.teacher_channels)}, "
            f"sizes={list(self.sizes)}, hidden_channels={self.hidden_channels}"
        )


class _Fusion(nn.Module):
    """One level of the pyramid; its parts are named as in the published weights."""

    def __init__(self, student: int, hidden: int, teacher: int, *, fuse: bool) -> None:
        super().__init__()
        narrow = nn.Conv2d(student, hidden, 1, bias=False)
        widen = nn.Conv2d(hidden, teacher, 3, padding=1, bias=False)
        for convolution in (narrow, widen):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        self.conv1 = nn.Sequential(narrow, nn.BatchNorm2d(hidden))
        self.conv2 = nn.Sequential(widen, nn.BatchNorm2d(teacher))
        self.att_conv = nn.Sequential(nn.Conv2d(2 * hidden, 2, 1), nn.Sigmoid()) if fuse else None

    def forward(self, feature: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        fused = self.conv1(feature)
        if self.att_conv is not None and deeper is not None:
            deeper = _resized(deeper, fused.shape[2:])
            attention = self.att_conv(torch.cat([fused, deeper], dim=1))
            fused = fused * attention[:, :1] + deeper * attention[:, 1:]
        fused = _resized(fused, size)
        return self.conv2(fused), fused


def _resized(feature: Tensor, size: Sequence[int]) -> Tensor:
    same = tuple(feature.shape[2:]) == tuple(size)
    return feature if same else functional.interpolate(feature, size=tuple(size), mode="nearest")


def _height_and_width(name: str, size: int | tuple[int, int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2:
        raise ValueError(f"{name} must be a number or a pair (height, width), got {size!r}")
    for side in pair:
        check_count(name, side)
    return pair[0], pair[1]


# ---------------------------------------------------------------- checks


def _check_channel_pairs(student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
    """Refuse lists that do not give one student's and one teacher's width, >= 1, for each feature."""
    if len(student_channels) != len(teacher_channels) or not student_channels:
        raise ValueError(
            "student_channels and teacher_channels must have one entry for each feature, "
            f"got {list(student_channels)} and {list(teacher_channels)}"
        )
    for name, widths in (("student_channels", student_channels), ("teacher_channels", teacher_channels)):
        for number, width in enumerate(widths):
            check_count(f"{name}[{number}]", width)


def _checked_map(name: str, feature: Tensor, channels: int | None = None) -> Tensor:
    """Return a map, of a given width if one is given, in at least float32."""
    fits = feature.ndim == 4 and channels in (None, feature.shape[1])
    return checked_floats(name, feature, f"[B, {channels or 'C'}, H, W]", fits)


def _checked_maps(name: str, features: Sequence[Tensor], channels: Sequence[int]) -> list[Tensor]:
    """Return a list of maps, one for each width, in at least float32."""
    if not isinstance(features, list | tuple) or len(features) != len(channels):
        given = f"a list of {len(features)}" if isinstance(features, list | tuple) else describe(features)
        raise ValueError(
            f"{name} must be a list of {len(channels)} maps with {list(channels)} channels, got {given}"
        )
    pairs = zip(features, channels, strict=True)
    return [_checked_map(f"{name}[{number}]", *pair) for number, pair in enumerate(pairs)]


def _checked_channel_vector(name: str, vector: Tensor, channels: int) -> Tensor:
    """Return one number per channel in at least float32."""
    return checked_floats(name, vector, f"[C] = [{channels}]", vector.shape == (channels,))
