"""Shapes of features: conversions between maps, tokens and vectors, and layers that predict one from another.

Features are maps ``[B, C, H, W]``, token sequences ``[B, N, D]`` or vectors ``[B, D]``.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dotkd._validate import checked_floats, describe

_FORMS = {4: "a map [B, C, H, W]", 3: "tokens [B, N, D]", 2: "a vector [B, D]"}
_EXTRA_TOKENS = (0, 1, 2, 4, 5, 8, 9)  # class token or not, distillation token, 4 or 8 registers
_LARGEST_KERNEL = 7


def as_map(feature: Tensor) -> Tensor:
    """Convert any feature to a map.

    Tokens count as the patches of a square image, row by row, behind class token, distillation token and
    registers: ``N = h * h + extra`` with the largest square in N. Where ``extra`` is not a usual number of
    such tokens (0, 1, 2, 4, 5, 8 or 9, fewer than patches), all tokens become one row.

    Args:
        feature: ``[B, C, H, W]``, ``[B, N, D]`` or ``[B, D]``.

    Returns:
        A map as it is; ``[B, D, h, h]``, or ``[B, D, 1, N]`` for the row; ``[B, D, 1, 1]``. No copy.

    Raises:
        ValueError: The feature has another number of dimensions.

    Example:
        >>> shapes = [(2, 197, 8), (2, 6, 8), (2, 12, 8), (2, 8)]
        >>> [tuple(as_map(torch.zeros(shape)).shape) for shape in shapes]
        [(2, 8, 14, 14), (2, 8, 2, 2), (2, 8, 1, 12), (2, 8, 1, 1)]
    """
    _check_rank("feature", feature)
    if feature.ndim == 4:
        return feature
    if feature.ndim == 2:
        return feature[:, :, None, None]
    tokens = feature.shape[1]
    side = math.isqrt(tokens)
    extra = tokens - side * side
    if extra not in _EXTRA_TOKENS or extra >= side * side:
        return feature.transpose(1, 2).unsqueeze(2)
    return feature[:, extra:].transpose(1, 2).reshape(len(feature), feature.shape[2], side, side)


def as_vector(feature: Tensor) -> Tensor:
    """Convert any feature to one vector per sample: the mean over its positions.

    Args:
        feature: ``[B, C, H, W]``, ``[B, N, D]`` or ``[B, D]``.

    Returns:
        ``[B, C]`` or ``[B, D]``: a map averaged over H and W, tokens averaged over N, a vector as it is.

    Raises:
        ValueError: The feature has another number of dimensions.

    Example:
        >>> as_vector(torch.tensor([[[1.0, 2.0], [3.0, 6.0]]]))
        tensor([[2., 4.]])
    """
    _check_rank("feature", feature)
    if feature.ndim == 4:
        return feature.mean((2, 3))
    return feature.mean(1) if feature.ndim == 3 else feature


class ConvRegressor(nn.Module):
    """Predicts a teacher's map from a student's: one convolution, batch norm and ReLU.

    The student's height and width against the teacher's decide the convolution:

    =====================  =================================================================
    twice as large         3x3, stride 2, padding 1
    half as large          transposed 4x4, stride 2, padding 1
    as large, or larger    kernel 1 + student's - teacher's, up to 7
    anything else          1x1, with averaging before it to the smaller of the two sides and
                           bilinear interpolation after it to the teacher's
    =====================  =================================================================

    The first three are the published ones of FitNets, with its ``state_dict`` keys ``conv.*`` and ``bn.*``.
    The last, with the same keys, covers the other pairs.

    Args:
        student_shape: ``[B, C, H, W]`` of the student's map, such as ``feature.shape``; B is not used.
        teacher_shape: The same of the teacher's.
        relu: Rectify the prediction, for a teacher's map that is rectified.

    Raises:
        ValueError: A shape is not four sizes >= 1.

    Example:
        >>> regressor = ConvRegressor((2, 8, 8, 8), (2, 16, 4, 4))
        >>> regressor.conv
        Conv2d(8, 16, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
        >>> regressor(torch.randn(2, 8, 8, 8)).shape
        torch.Size([2, 16, 4, 4])

    Reference:
        Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550, section 2.2.
    """

    conv: nn.Conv2d | nn.ConvTranspose2d

    def __init__(
        self, student_shape: Sequence[int], teacher_shape: Sequence[int], *, relu: bool = True
    ) -> None:
        super().__init__()
        for name, shape in (("student_shape", student_shape), ("teacher_shape", teacher_shape)):
            if len(shape) != 4 or min(shape) < 1:
                raise ValueError(f"{name} must be [B, C, H, W], each >= 1, got {list(shape)}")
        self.relu = relu
        self.size: tuple[int, int] | None = None  # the teacher's sides, where the map is resized to them
        self.bn = nn.BatchNorm2d(teacher_shape[1])
        channels = student_shape[1], teacher_shape[1]
        sides = list(zip(student_shape[2:], teacher_shape[2:], strict=True))
        if all(ours == 2 * theirs for ours, theirs in sides):
            self.conv = nn.Conv2d(*channels, 3, stride=2, padding=1)
        elif all(2 * ours == theirs for ours, theirs in sides):
            self.conv = nn.ConvTranspose2d(*channels, 4, stride=2, padding=1)
        elif all(0 <= ours - theirs < _LARGEST_KERNEL for ours, theirs in sides):
            height, width = (1 + ours - theirs for ours, theirs in sides)
            self.conv = nn.Conv2d(*channels, (height, width))
        else:
            self.conv = nn.Conv2d(*channels, 1)
            self.size = teacher_shape[2], teacher_shape[3]

    def forward(self, feature: Tensor) -> Tensor:
        """Predict the teacher's map.

        Args:
            feature: The student's map ``[B, C, H, W]``, of the shape that the regressor was made for.

        Returns:
            A map of the teacher's shape.

        Raises:
            ValueError: The feature is not a map of that many channels.
        """
        if feature.ndim != 4 or feature.shape[1] != self.conv.in_channels:
            raise ValueError(f"feature must be [B, {self.conv.in_channels}, H, W], got {describe(feature)}")
        if self.size is None:
            predicted = self.conv(feature)
        else:
            smaller = min(feature.shape[2], self.size[0]), min(feature.shape[3], self.size[1])
            predicted = self.conv(functional.adaptive_avg_pool2d(feature, smaller))
            if predicted.shape[2:] != self.size:
                predicted = functional.interpolate(predicted, self.size, mode="bilinear")
        predicted = self.bn(predicted)
        return torch.relu(predicted) if self.relu else predicted

    def extra_repr(self) -> str:
        """Options, for ``repr``."""
        return f"relu={self.relu}" + (f", size={self.size}" if self.size else "")


class Aligner(nn.Module):
    """Predicts the teacher's feature from the student's, for a comparison with :meth:`target`.

    Made by :func:`make_aligner`::

        loss = functional.mse_loss(aligner(student_feature), aligner.target(teacher_feature))

    Args:
        predict: The layer that learns.
        student_form: Conversion of the student's feature in front of ``predict``.
        teacher_form: Conversion of the teacher's feature.
        dims: Number of dimensions of the student's and the teacher's feature.

    Example:
        >>> aligner = make_aligner(torch.zeros(2, 8, 4, 4), torch.zeros(2, 17, 6))
        >>> aligner.target(torch.zeros(2, 17, 6)).shape  # the class token dropped
        torch.Size([2, 6, 4, 4])
    """

    def __init__(
        self,
        predict: nn.Module,
        student_form: Callable[[Tensor], Tensor],
        teacher_form: Callable[[Tensor], Tensor],
        dims: tuple[int, int],
    ) -> None:
        super().__init__()
        self.predict = predict
        self.student_form = student_form
        self.teacher_form = teacher_form
        self.dims = dims

    def forward(self, feature: Tensor) -> Tensor:
        """Predict the teacher's feature.

        Args:
            feature: The student's feature, as the model returns it.

        Returns:
            A tensor of the shape of :meth:`target`.

        Raises:
            ValueError: The feature has another number of dimensions.
        """
        _check_rank("student_feature", feature, self.dims[0])
        predicted: Tensor = self.predict(self.student_form(feature))
        return predicted

    def target(self, feature: Tensor) -> Tensor:
        """Convert the teacher's feature to the form of the prediction.

        Args:
            feature: The teacher's feature, as the model returns it.

        Returns:
            The feature as it is, or as a map, see :func:`make_aligner`.

        Raises:
            ValueError: The feature has another number of dimensions.
        """
        _check_rank("teacher_feature", feature, self.dims[1])
        return self.teacher_form(feature)


def make_aligner(student_feature: Tensor, teacher_feature: Tensor, *, relu: bool | None = None) -> Aligner:
    """Make the layers that predict a teacher's feature from a student's, for any two forms.

    ==================  =================================  =======================  =================
    teacher's           student's                          predicted by             compared with
    ==================  =================================  =======================  =================
    vector              any, by :func:`as_vector`          ``nn.Linear``            the vector
    tokens              as many tokens                     ``nn.Linear`` per token  the tokens
    tokens, otherwise   any, by :func:`as_map`             :class:`ConvRegressor`   :func:`as_map`
    map                 any, by :func:`as_map`             :class:`ConvRegressor`   the map
    ==================  =================================  =======================  =================

    Token sequences of equal length are compared one by one, the class token included.

    Args:
        student_feature: ``[B, C, H, W]``, ``[B, N, D]`` or ``[B, D]``: an example for the shape.
        teacher_feature: An example of the teacher's feature; its B may differ.
        relu: Rectify a predicted map; None rectifies if the teacher's example has no negative value. Not
            used for vectors and tokens.

    Returns:
        The layers, on the device of the student's feature and in its dtype, at least float32; their weights
        are drawn from torch's global generator.

    Raises:
        ValueError: A feature is empty, not floating point, or has another number of dimensions.

    Example:
        >>> student, teacher = torch.randn(2, 8, 8, 8), torch.randn(2, 16, 4, 4)
        >>> aligner = make_aligner(student, teacher)
        >>> aligner(student).shape == aligner.target(teacher).shape
        True
    """
    for name, feature in (("student_feature", student_feature), ("teacher_feature", teacher_feature)):
        checked_floats(name, feature, "of 2, 3 or 4 dimensions", feature.ndim in _FORMS)
    dims = student_feature.ndim, teacher_feature.ndim
    linear = student_feature.shape[-1], teacher_feature.shape[-1]
    predict: nn.Module
    if teacher_feature.ndim == 2:
        predict = nn.Linear(as_vector(student_feature).shape[1], linear[1])
        aligner = Aligner(predict, as_vector, _unchanged, dims)
    elif dims == (3, 3) and student_feature.shape[1] == teacher_feature.shape[1]:
        aligner = Aligner(nn.Linear(*linear), _unchanged, _unchanged, dims)
    else:
        ours, theirs = as_map(student_feature), as_map(teacher_feature)
        if relu is None:
            relu = bool((theirs >= 0).all())
        aligner = Aligner(ConvRegressor(ours.shape, theirs.shape, relu=relu), as_map, as_map, dims)
    return aligner.to(student_feature.device, torch.promote_types(student_feature.dtype, torch.float32))


def _unchanged(feature: Tensor) -> Tensor:
    return feature


def _check_rank(name: str, feature: Tensor, wanted: int | None = None) -> None:
    if feature.ndim not in _FORMS or wanted not in {None, feature.ndim}:
        right = " or ".join(_FORMS.values()) if wanted is None else _FORMS[wanted]
        raise ValueError(f"{name} must be {right}, got {describe(feature)}")
