"""DeepKD: the target class and the other classes as two distillation losses, for a momentum each."""

# ruff: noqa: ARG002  (a method need not read all that it is given)

from torch import Tensor

from dotkd.losses._checks import check_non_negative, check_positive
from dotkd.losses.decoupled import deepkd_losses, top_k_schedule
from dotkd.methods.base import Method, Outputs
from dotkd.methods.registry import register


@register("deepkd")
class DeepKD(Method):
    """Deeply decoupled and denoised distillation, see :func:`dotkd.losses.decoupled.deepkd_losses`.

    Its two losses are streams of their own. With :class:`~dotkd.optim.MultiMomentumSGD` and
    :func:`~dotkd.optim.deepkd_momenta` each has its own momentum beside the task's, which is the paper's
    method; every other optimizer gets their sum, which without the mask is the loss of
    :class:`~dotkd.methods.DKD`.

    Where the defaults come from: ``alpha``, ``beta``, ``temperature``, ``task_weight`` and the warm-up of
    20 epochs out of 240 are those of the released CIFAR-100 recipes that build on DKD (``beta`` is chosen
    per pair of models, from 0.5 to 8). The released ImageNet recipes have temperature 1, a warm-up of one
    epoch out of 100, and ``beta`` 1 for ResNet34 to ResNet18 or 2 for ResNet50 to MobileNet. The mask
    grows from 5 % of the classes to all of them as in the paper; see
    :func:`dotkd.losses.decoupled.top_k_schedule` for what is known of its phases, and ``k_start=1`` for no
    mask, as the released recipes have it.

    Args:
        alpha: Weight of the target-class loss, >= 0.
        beta: Weight of the other classes' loss, >= 0.
        temperature: Softens all distributions, > 0.
        k_start: Share of the classes that the mask keeps at the start, in (0, 1]; 1 for no mask.
        k_plateau: How far up the plateau of the second phase is from the start to all classes, in [0, 1].
        rise_end: Where the first phase ends, as a share of the run.
        hold_end: Where the second phase ends.
        full_from: From where on all classes are kept.
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of both distillation losses, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> import torch
        >>> method = DeepKD(beta=2.0)
        >>> student, teacher = Outputs(torch.zeros(1, 4)), Outputs(torch.tensor([[0.0, 8.0, 4.0, 0.0]]))
        >>> losses = method(student, teacher, torch.tensor([0]), index=None, progress=0.5)
        >>> list(losses)
        ['target', 'others']

    Reference:
        Huang, Song, Zhang and Ren, "DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation
        Trainer", NeurIPS 2025, arXiv 2505.15133.
    """

    needs = ("logits", "target")
    streams = ("target", "others")

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        k_start: float = 0.05,
        k_plateau: float = 0.5,
        rise_end: float = 1 / 3,
        hold_end: float = 2 / 3,
        full_from: float = 1.0,
        task_weight: float = 1.0,
        distill_weight: float = 1.0,
        warmup: float = 20 / 240,
    ) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)
        check_non_negative("alpha", alpha)
        check_non_negative("beta", beta)
        check_positive("temperature", temperature)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.mask = {
            "k_start": k_start,
            "k_plateau": k_plateau,
            "rise_end": rise_end,
            "hold_end": hold_end,
            "full_from": full_from,
        }
        top_k_schedule(0.0, 2, **self.mask)  # a wrong option is an error now, not in the first step

    def forward(
        self,
        student: Outputs,
        teacher: Outputs,
        target: Tensor,
        *,
        index: Tensor | None = None,
        progress: float = 1.0,
    ) -> dict[str, Tensor]:
        """Both raw losses, see :meth:`dotkd.methods.Method.forward`.

        Returns:
            A scalar for each of ``streams``.
        """
        target_loss, others_loss = deepkd_losses(
            student.logits,
            teacher.logits,
            target,
            temperature=self.temperature,
            top_k=top_k_schedule(progress, student.logits.shape[1], **self.mask),
        )
        return {"target": self.alpha * target_loss, "others": self.beta * others_loss}

    def extra_repr(self) -> str:
        """The options, for ``repr``.

        Returns:
            One line.
        """
        mask = ", ".join(f"{name}={value:g}" for name, value in self.mask.items())
        own = f"alpha={self.alpha:g}, beta={self.beta:g}, temperature={self.temperature:g}"
        return f"{own}, {mask}, {super().extra_repr()}"
