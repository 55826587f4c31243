"""ReviewKD: the student's stages, fused from the deepest up, are to be the teacher's."""

# ruff: noqa: ARG002  (a method need not read all that it is given)

from torch import Tensor

from dotkd.align import as_map
from dotkd.losses.feature import hierarchical_context_loss
from dotkd.losses.fusion import ReviewFusion
from dotkd.methods.base import Method, Outputs, Setting
from dotkd.methods.feature import maps
from dotkd.methods.registry import register


@register("reviewkd")
class ReviewKD(Method):
    """Knowledge review, see :func:`dotkd.losses.hierarchical_context_loss`.

    All stages and the pooled vector of the student go through a pyramid of attention-based fusions
    (:class:`dotkd.losses.ReviewFusion`), which learns from the distillation loss alone, and are compared with
    the teacher's, whose stages are taken in front of their last ReLU. The published CIFAR-100 recipe ramps
    the weight over the first 20 of 240 epochs, ``warmup=20/240``, and chooses it for each pair of models.

    Args:
        student_preacts: Take the student's stages in front of their last ReLU, too.
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> ReviewKD(distill_weight=5.0, warmup=20 / 240).ramp(0.0)
        0.0

    Reference:
        Chen, Liu, Zhao and Jia, CVPR 2021, arXiv 2104.09044.
    """

    needs = ("stages", "preacts", "pooled")
    learns = True
    fusion: ReviewFusion

    def __init__(
        self,
        student_preacts: bool = False,
        task_weight: float = 1.0,
        distill_weight: float = 1.0,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)
        self.student_preacts = student_preacts

    def prepare(self, setting: Setting) -> None:
        """Make the pyramid.

        Args:
            setting: What both models return for one batch.
        """
        ours, theirs = self._ours(setting.student_outputs), _levels(setting.teacher_outputs, "preacts")
        self.fusion = ReviewFusion(
            [feature.shape[1] for feature in ours],
            [feature.shape[1] for feature in theirs],
            [(feature.shape[2], feature.shape[3]) for feature in theirs],
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
        return hierarchical_context_loss(self.fusion(self._ours(student)), _levels(teacher, "preacts"))

    def _ours(self, student: Outputs) -> list[Tensor]:
        return _levels(student, "preacts" if self.student_preacts else "stages")


def _levels(outputs: Outputs, kind: str) -> list[Tensor]:
    return [*maps(outputs, kind), as_map(outputs.features["pooled"])]
