"""Methods on logits alone: no taps, no learned parts."""

# ruff: noqa: ARG002  (a method need not read all that it is given)

from torch import Tensor

from dotkd.losses.logit import check_non_negative, check_positive, dkd_loss, kd_loss
from dotkd.methods.base import Method, Outputs
from dotkd.methods.registry import register


@register("kd")
class KD(Method):
    """Knowledge distillation, see :func:`dotkd.losses.kd_loss`.

    The defaults are the published CIFAR-100 recipe: 0.1 of the cross entropy and 0.9 of the
    distillation loss at temperature 4. (ImageNet: temperature 1, both weights 0.5.)

    Args:
        temperature: Softens both distributions, > 0.
        standardize: Use z-scored logits; the published recipes then take temperature 2.
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> KD(temperature=2.0)
        KD(temperature=2, standardize=False, task_weight=0.1, distill_weight=0.9, warmup=0)

    Reference:
        Hinton, Vinyals and Dean, 2015, arXiv 1503.02531; with ``standardize``: Sun et al., CVPR
        2024, arXiv 2403.01427.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        standardize: bool = False,
        task_weight: float = 0.1,
        distill_weight: float = 0.9,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)
        check_positive("temperature", temperature)
        self.temperature = temperature
        self.standardize = standardize

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
        return kd_loss(
            student.logits,
            teacher.logits,
            temperature=self.temperature,
            standardize=self.standardize,
        )

    def extra_repr(self) -> str:
        """The options, for ``repr``.

        Returns:
            One line.
        """
        own = f"temperature={self.temperature:g}, standardize={self.standardize}"
        return f"{own}, {super().extra_repr()}"


@register("dkd")
class DKD(Method):
    """Decoupled knowledge distillation, see :func:`dotkd.losses.dkd_loss`.

    The published CIFAR-100 recipe ramps the distillation weight over the first 20 of 240 epochs,
    i.e. ``warmup=20/240``, and chooses ``beta`` per pair of models (8 for most, 2 or 6 for some).

    Args:
        alpha: Weight of the target-class term, >= 0.
        beta: Weight of the other classes' term, >= 0.
        temperature: Softens all distributions, > 0.
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> DKD(beta=2.0, warmup=20 / 240).ramp(10 / 240)
        0.5

    Reference:
        Zhao, Cui, Song, Qiu and Liang, CVPR 2022, arXiv 2203.08679.
    """

    needs = ("logits", "target")

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        task_weight: float = 1.0,
        distill_weight: float = 1.0,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)
        check_non_negative("alpha", alpha)
        check_non_negative("beta", beta)
        check_positive("temperature", temperature)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

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
        return dkd_loss(
            student.logits,
            teacher.logits,
            target,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
        )

    def extra_repr(self) -> str:
        """The options, for ``repr``.

        Returns:
            One line.
        """
        own = f"alpha={self.alpha:g}, beta={self.beta:g}, temperature={self.temperature:g}"
        return f"{own}, {super().extra_repr()}"
