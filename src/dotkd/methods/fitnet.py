"""FitNet: one hidden stage of the student, through a learned regressor, is to be the teacher's."""

# ruff: noqa: ARG002  (a method need not read all that it is given)

from torch import Tensor

from dotkd.align import Aligner, make_aligner
from dotkd.losses.feature import hint_loss
from dotkd.methods.base import Method, Outputs, Setting
from dotkd.methods.registry import register


@register("fitnet")
class FitNet(Method):
    """A hint for one stage, see :func:`dotkd.losses.hint_loss`.

    The student's stage goes through a regressor to the teacher's shape; the regressor learns with the
    student, from the distillation loss alone. (FitNets train with the hint first; as is usual by now, both
    losses are taken from the first step on.)

    Args:
        stage: Which stage behind the stem, from 1; the published recipe takes the second.
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> FitNet(stage=1).needs
        ('stages',)

    Reference:
        Romero et al., ICLR 2015, arXiv 1412.6550; the weight 100 is that of the published code.
    """

    needs = ("stages",)
    learns = True
    regressor: Aligner

    def __init__(
        self, stage: int = 2, task_weight: float = 1.0, distill_weight: float = 100.0, warmup: float = 0.0
    ) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)
        if stage < 1:
            raise ValueError(f"stage must be at least 1, got {stage}")
        self.stage = stage

    def prepare(self, setting: Setting) -> None:
        """Make the regressor.

        Args:
            setting: What both models return for one batch.

        Raises:
            ValueError: There are not so many stages.
        """
        student, teacher = setting.student_outputs.group("stages"), setting.teacher_outputs.group("stages")
        if len(student) < self.stage:
            raise ValueError(
                f"stage must be at most {len(student)}, the stages of these models, got {self.stage}"
            )
        self.regressor = make_aligner(student[self.stage - 1], teacher[self.stage - 1])

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
        ours, theirs = (outputs.group("stages")[self.stage - 1] for outputs in (student, teacher))
        return hint_loss(self.regressor(ours), self.regressor.target(theirs))
