"""VID: the teacher's stages are to be likely, given the student's."""

# ruff: noqa: ARG002  (a method need not read all that it is given)

import torch
from torch import Tensor, nn

from dotkd.losses.variational import VariationalRegressor
from dotkd.methods.base import Method, Outputs, Setting
from dotkd.methods.feature import maps
from dotkd.methods.registry import register


@register("vid")
class VID(Method):
    """Variational information distillation of all stages, see :func:`dotkd.losses.vid_loss`.

    Each stage has a regressor and a variance for each channel, all of them learned. (The published code
    leaves the variances out of the optimizer, so that they stay what they are at the start.)

    Args:
        initial_variance: Of all channels at the start, > 0.
        eps: Added to the variances, > 0.
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> VID(initial_variance=1.0).distill_weight
        1.0

    Reference:
        Ahn et al., CVPR 2019, arXiv 1904.05835.
    """

    needs = ("stages",)
    learns = True
    regressors: nn.ModuleList

    def __init__(
        self,
        initial_variance: float = 5.0,
        eps: float = 1e-5,
        task_weight: float = 1.0,
        distill_weight: float = 1.0,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)
        VariationalRegressor(1, 1, initial_variance=initial_variance, eps=eps)  # refuses what is out of range
        self.initial_variance = initial_variance
        self.eps = eps

    def prepare(self, setting: Setting) -> None:
        """Make a regressor for each stage.

        Args:
            setting: What both models return for one batch.
        """
        pairs = zip(
            maps(setting.student_outputs, "stages"), maps(setting.teacher_outputs, "stages"), strict=True
        )
        self.regressors = nn.ModuleList(
            VariationalRegressor(
                ours.shape[1], theirs.shape[1], initial_variance=self.initial_variance, eps=self.eps
            )
            for ours, theirs in pairs
        )

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
        pairs = zip(maps(student, "stages"), maps(teacher, "stages"), strict=True)
        losses = [regressor(*pair) for regressor, pair in zip(self.regressors, pairs, strict=True)]
        return torch.stack(losses).sum()
