"""Knowledge review (ReviewKD): deep features of the student help to explain shallow ones.

Here belongs the fusion pyramid; its output is compared by ``hierarchical_context_loss``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dotkd.losses._checks import check_count
from dotkd.losses._learned import check_channel_pairs, checked_maps

# The published bound on the width in which features are fused.
_WIDEST = 512


class ReviewFusion(nn.Module):
    r"""Attention-based fusion of a student's features, from the deepest up to the shallowest.

    .. math::
        r_l = a_l \odot \mathrm{conv}_{1 \times 1}(s_l) + b_l \odot \mathrm{resize}(r_{l+1}), \qquad
        (a_l, b_l) = \sigma(\mathrm{conv}_{1 \times 1}
            [\mathrm{conv}_{1 \times 1}(s_l), \mathrm{resize}(r_{l+1})])

    with :math:`s_l` the l-th of ``student_features``, :math:`r_l` what is handed on to the next
    shallower level, resized to it by repetition (nearest neighbour), and two attention maps
    :math:`a_l, b_l` with one number per position. The deepest level has nothing to fuse:
    :math:`r_L = \mathrm{conv}_{1 \times 1}(s_L)`. At every level :math:`r_l` takes on the teacher's
    height and width, and a 3x3 convolution its width, which is the output. Every convolution but the
    attention's is followed by a batch norm.

    Lists of arguments, inputs and outputs all run from shallow to deep. (``fusions``, the modules,
    run from deep to shallow, so that published weights fit.) A pooled vector may be the deepest
    feature, as a map of 1x1; a batch then needs two samples in training mode.

    Args:
        student_channels: Channels of the student's features, each >= 1.
        teacher_channels: Channels of the teacher's features, as many.
        sizes: Heights and widths of the teacher's features: a number for a square, or a pair.
        hidden_channels: The width in which features are fused; by default the student's deepest, at
            most 512.

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
        check_channel_pairs(student_channels, teacher_channels)
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

    def forward(self, student_features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse the features of one batch.

        Args:
            student_features: Maps ``[B, C, H, W]``, floating point, shallow to deep, of any sizes.

        Returns:
            For each feature a map with the teacher's channels, height and width, shallow to deep.
        """
        features = checked_maps("student_features", student_features, self.student_channels)
        outputs: list[Tensor] = []
        handed_on: Tensor | None = None
        for fusion, feature, size in zip(self.fusions, features[::-1], self.sizes[::-1], strict=True):
            output, handed_on = fusion(feature, handed_on, size)
            outputs.append(output)
        return outputs[::-1]

    def extra_repr(self) -> str:
        """Widths and sizes, for ``repr``.

        Returns:
            One line.
        """
        return (
            f"{list(self.student_channels)}, {list(self.teacher_channels)}, "
            f"sizes={list(self.sizes)}, hidden_channels={self.hidden_channels}"
        )


# One level of the pyramid. The names of its parts are those of the published weights.
class _Fusion(nn.Module):
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
