"""CRD: each image's pooled vector, told apart from remembered ones of other classes."""

# ruff: noqa: ARG002  (a method need not read all that it is given)

from typing import Any

import torch
from torch import Tensor

from dotkd.align import as_vector
from dotkd.losses.contrast import ContrastMemory
from dotkd.methods.base import Method, Outputs, Setting
from dotkd.methods.registry import register


@register("crd")
class CRD(Method):
    """Contrastive representation distillation, see :class:`dotkd.losses.contrast.ContrastMemory`.

    Two memories hold an embedding of every training image; they and the count of batches, from which the
    negatives are drawn, are in ``state_dict``, so that a run goes on to the same bits.

    Args:
        embed_dim: Length of the embeddings, >= 1.
        negatives: Negatives for each image, >= 1.
        temperature: > 0.
        momentum: How much of a remembered embedding stays, in [0, 1).
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> CRD(negatives=4096).distill_weight
        0.8

    Reference:
        Tian, Krishnan and Isola, ICLR 2020, arXiv 1910.10699; the defaults are those of its code.
    """

    needs = ("pooled", "index")
    learns = True
    memory: ContrastMemory
    labels: Tensor

    def __init__(
        self,
        embed_dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        task_weight: float = 1.0,
        distill_weight: float = 0.8,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)
        self._options: dict[str, Any] = {
            "embed_dim": embed_dim,
            "negatives": negatives,
            "temperature": temperature,
            "momentum": momentum,
        }
        ContrastMemory(1, 1, num_samples=1, **self._options)  # refuses what is out of range

    def prepare(self, setting: Setting) -> None:
        """Make the memories, for as many images as there are labels.

        Args:
            setting: What both models return for one batch, and the labels.

        Raises:
            ValueError: There are no labels.
        """
        if setting.labels is None:
            raise ValueError(
                "CRD draws negatives from other classes: pass labels, the class of each sample number, [N]"
            )
        ours, theirs = (
            as_vector(o.features["pooled"]) for o in (setting.student_outputs, setting.teacher_outputs)
        )
        seed = int(torch.randint(2**31, ()))
        self.memory = ContrastMemory(
            ours.shape[1], theirs.shape[1], num_samples=len(setting.labels), seed=seed, **self._options
        )
        self.register_buffer("labels", setting.labels.cpu(), persistent=False)  # they belong to the data

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

        Raises:
            ValueError: There is no index.
        """
        if index is None:
            raise ValueError("CRD remembers each image by its number: call the distiller with index=")
        ours, theirs = as_vector(student.features["pooled"]), as_vector(teacher.features["pooled"])
        loss: Tensor = self.memory(ours, theirs, index, labels=self.labels)
        return loss
