"""OFD: all stages in front of their last ReLU, with a margin below which the teacher does not matter."""

# ruff: noqa: ARG002  (a method need not read all that it is given)

from torch import Tensor, nn

from dotkd.losses.overhaul import OverhaulConnectors, margin_from_batch_norm
from dotkd.methods.base import Method, Outputs, Setting
from dotkd.methods.feature import maps
from dotkd.methods.registry import register


@register("ofd")
class OFD(Method):
    """The overhaul of feature distillation, see :func:`dotkd.losses.ofd_loss`.

    The margins come from the batch norms that the teacher names in ``norm_paths``, one for each stage, as the
    zoo does where the published code has them; elsewhere they are measured on the teacher's features in the
    first batch. A model without ``preacts`` gives its ``stages``. (The published code fails for MobileNetV2.)

    Args:
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> OFD().distill_weight
        0.001

    Reference:
        Heo et al., ICCV 2019, arXiv 1904.01866; the weight 0.001 is that of the published code.
    """

    needs = ("preacts",)
    learns = True
    connectors: OverhaulConnectors

    def __init__(self, task_weight: float = 1.0, distill_weight: float = 1e-3, warmup: float = 0.0) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)

    def prepare(self, setting: Setting) -> None:
        """Make a connector for each stage.

        Args:
            setting: What both models return for one batch.
        """
        ours, theirs = maps(setting.student_outputs, "preacts"), maps(setting.teacher_outputs, "preacts")
        preacts = getattr(setting.teacher, "preact_paths", ())[1:]  # the first is the stem's
        norms = dict(zip(preacts, getattr(setting.teacher, "norm_paths", ()), strict=False))
        paths = [path for name, path in setting.teacher_paths.items() if name.startswith("preacts.")]
        margins = [
            _margin(setting.teacher, norms.get(path), each) for path, each in zip(paths, theirs, strict=True)
        ]
        widths = [[feature.shape[1] for feature in features] for features in (ours, theirs)]
        self.connectors = OverhaulConnectors(widths[0], widths[1], margins)

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
        loss: Tensor = self.connectors(maps(student, "preacts"), maps(teacher, "preacts"))
        return loss


def _margin(teacher: nn.Module, path: str | None, feature: Tensor) -> Tensor | None:
    """The margin of a batch norm; None where none is named, or none of the feature's width."""
    norm = None if path is None else teacher.get_submodule(path)
    if not isinstance(norm, nn.BatchNorm2d) or not norm.affine or norm.num_features != feature.shape[1]:
        return None
    return margin_from_batch_norm(norm.weight.detach().cpu(), norm.bias.detach().cpu())
